"""The rows that a base practises on, which come with actune, and what became of them in a practice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actune.data.rows import Row
    from actune.prompt_format import Language

CORPUS = Path(__file__).parent.parent / "practice"
# A base that has read much Chinese has words for it: Gemma 3 spends 0.82 tokens on a character of the corpus, SmolLM2,
# which knows none, 1.90.
MOST_TOKENS_A_CHARACTER = 1.2


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


def unseen(start: dict[str, Any], language: str) -> list[Row]:
    """Return rows in a language that nothing was trained on: without a practice all of the corpus.

    They are good for measuring how a training acts, when its own validation rows are few. Of a practice they are what
    it kept for its own validation. Many rows of the corpus ask other things of the same list: those whose list was
    trained on are left out.

    Args:
        start: As `start_of` gave it.
        language: Of the training's prompt.
    """
    if not start:
        from actune.data.table import read_table

        file = CORPUS / f"{language}.jsonl"
        return list(read_table(file).rows) if file.is_file() else []
    trained = {frozenset(row.actions) for row in practised(start, language)}
    return [row for row in _kept(start, language) if frozenset(row.actions) not in trained]


def practised(start: dict[str, Any], language: str) -> list[Row]:
    """Return the rows in a language that the practice trained on; none without a practice.

    Args:
        start: As `start_of` gave it.
        language: Of the training's prompt.
    """
    from actune.data.table import read_table

    kept = {(row.question, row.actions) for row in _kept(start, language)}
    file = CORPUS / f"{language}.jsonl"
    rows = read_table(file).rows if start and file.is_file() else []
    return [row for row in rows if (row.question, row.actions) not in kept]


def _kept(start: dict[str, Any], language: str) -> list[Row]:
    """Return the rows in a language that the practice validated on."""
    from actune.data.table import read_table
    from actune.prompt_format import language_of
    from actune.tune.run import VALID

    file = Path(start["folder"]) / VALID if start else None
    if file is None or not file.is_file():
        return []
    return [row for row in read_table(file).rows if language_of([row.question]) == language]
