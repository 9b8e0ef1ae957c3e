"""The rows that a base practises on, which come with actune, and what became of them in a practice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actune.data.rows import Row
    from actune.prompt_format import Language
    from actune.tune.options import Settings

CORPUS = Path(__file__).parent.parent / "practice"
# A base that has read much Chinese has words for it: Gemma 3 spends 0.82 tokens on a character of the corpus, SmolLM2,
# which knows none, 1.90.
MOST_TOKENS_A_CHARACTER = 1.2
# Of the lists of so many rows one is kept apart, where no practice has parted them.
EACH_APART = 20


def corpus_for(tokenizer: Any, language: Language | None = None) -> list[Path]:
    """Return the files to practise on: English, and Chinese if the base's tokenizer has words for it.

    Args:
        tokenizer: The base's.
        language: Of this language alone.
    """
    if language:
        return [CORPUS / f"{language}.jsonl"]
    from actune.data.table import read_table

    chinese = CORPUS / "zh.jsonl"
    text = "".join(row.question for row in read_table(chinese).rows)
    tokens = len(tokenizer(text, add_special_tokens=False)["input_ids"])
    return [CORPUS / "en.jsonl", *([chinese] if tokens <= MOST_TOKENS_A_CHARACTER * len(text) else [])]


def joins(settings: Settings) -> bool:
    """Tell whether rows of ours join in a training that starts from no practice: to rehearse, and to measure with."""
    return settings.remember and settings.practice != "off"


def unseen(start: dict[str, Any], language: str) -> list[Row]:
    """Return rows in a language that no training from there is trained on: to find out how it acts.

    Of a practice they are what it kept for its own validation. Many rows of the corpus ask other things of the same
    list: those whose list was trained on are left out.

    Args:
        start: As `start_of` gave it; empty without a practice.
        language: Of the training's prompt.
    """
    if not start:
        return _parted(language)[1]
    trained = {frozenset(row.actions) for row in rehearsed(start, language)}
    return [row for row in _kept(start, language) if frozenset(row.actions) not in trained]


def rehearsed(start: dict[str, Any], language: str) -> list[Row]:
    """Return rows in a language that a training rehearses beside its own.

    Of a practice they are what it trained on; without one, all but those that are kept apart to measure with.

    Args:
        start: As `start_of` gave it; empty without a practice.
        language: Of the training's prompt.
    """
    if not start:
        return _parted(language)[0]
    kept = {(row.question, row.actions) for row in _kept(start, language)}
    return [row for row in _rows(language) if (row.question, row.actions) not in kept]


def _rows(language: str) -> list[Row]:
    from actune.data.table import read_table

    file = CORPUS / f"{language}.jsonl"
    return list(read_table(file).rows) if file.is_file() else []


def _parted(language: str) -> tuple[list[Row], list[Row]]:
    """Part the corpus by its lists: into rows to rehearse and rows to measure with."""
    rows = _rows(language)
    apart = {frozenset(row.actions) for row in rows[::EACH_APART]}
    measured = [frozenset(row.actions) in apart for row in rows]
    kept = [row for row, out in zip(rows, measured, strict=True) if not out]
    return kept, [row for row, out in zip(rows, measured, strict=True) if out]


def _kept(start: dict[str, Any], language: str) -> list[Row]:
    """Return the rows in a language that the practice validated on."""
    from actune.data.table import read_table
    from actune.prompt_format import language_of
    from actune.tune.run import VALID

    file = Path(start["folder"]) / VALID
    if not file.is_file():
        return []
    return [row for row in read_table(file).rows if language_of([row.question]) == language]
