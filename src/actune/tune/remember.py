"""How a base answers what has nothing to do with acting: it is asked once, and a training shall not lose it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file

from actune import prompt
from actune.base.cache import cache_folder
from actune.base.load import stop_ids
from actune.engine.local import LocalEngine, Request
from actune.engine.logits import Text, answer_logits, batches
from actune.errors import UserError, either
from actune.prompt import PromptFormat, stop_token
from actune.prompt_format import Language

if TYPE_CHECKING:
    from actune.base.source import Source

QUESTIONS = Path(__file__).parent.parent / "practice"
# A plain assistant: with our own system text the training shall change the answers, and that is not forgetting.
SYSTEM: dict[Language, str] = {"en": "You are a helpful assistant.", "zh": "你是一个乐于助人的助手。"}
LANGUAGES: tuple[Language, ...] = ("en", "zh")
MOST_TOKENS, BATCH = 32, 64
# Tokens of a distribution that are kept one by one; the rest count as one. They hold nearly all of the mass.
KEPT = 32


@dataclass(frozen=True)
class Memory:
    """An answer of the base, and what else it might have said.

    Args:
        text: Prompt and answer.
        ids: The `KEPT` likeliest tokens at each place of the answer [answer, KEPT].
        logs: Their log-probabilities, nats [answer, KEPT].
    """

    text: Text
    ids: torch.Tensor
    logs: torch.Tensor


def plain_prompts(tokenizer: Any, chat_template: str | None, asked: Sequence[tuple[Language, str]]) -> list[list[int]]:
    """Render questions to a plain assistant that has no actions.

    Returns:
        Token ids of each prompt.
    """
    return [
        prompt.render_ids(tokenizer, PromptFormat(language, SYSTEM[language], chat_template), question, ())
        for language, question in asked
    ]


def questions() -> list[tuple[Language, str]]:
    """Return the questions to remember the answers of, written for actune; none of them is asked in evaluations."""
    return read_questions(QUESTIONS)


def read_questions(folder: Path) -> list[tuple[Language, str]]:
    """Read ``general.en.txt`` and ``general.zh.txt`` of a folder: a question a line, with its language."""
    return [
        (language, line)
        for language in LANGUAGES
        for line in (folder / f"general.{language}.txt").read_text(encoding="utf-8").splitlines()
    ]


def memories(model: Any, tokenizer: Any, fmt: PromptFormat, base: Source) -> tuple[list[Memory], str]:
    """Let the base answer, or look up what it answered; kept in the cache for each base and chat template.

    Args:
        model: The base, without an adapter.
        tokenizer: The base's.
        fmt: The run's prompt format.
        base: Where the base is from.

    Returns:
        The base's answers, and the SHA-256 of the file that holds them.
    """
    asked = questions()
    told = repr((asked, fmt.chat_template, model.device.type, MOST_TOKENS, KEPT))
    file = (
        cache_folder() / "memory" / f"{base.sha256[:16]}-{hashlib.sha256(told.encode()).hexdigest()[:12]}.safetensors"
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        if not file.is_file():
            made = _answered(model, tokenizer, fmt, plain_prompts(tokenizer, fmt.chat_template, asked))
            partial = file.with_suffix(".partial")
            save_file(_packed(made), partial)
            partial.replace(file)
    return _unpacked(load_file(file)), hashlib.sha256(file.read_bytes()).hexdigest()


@torch.no_grad()
def _answered(model: Any, tokenizer: Any, fmt: PromptFormat, prompts: Sequence[list[int]]) -> list[Memory]:
    ends = sorted({*stop_ids(model, tokenizer), stop_token(tokenizer, fmt)})
    model.eval()
    answers = LocalEngine(model, tokenizer, ends).generate([Request(ids, None, MOST_TOKENS) for ids in prompts], BATCH)
    texts = [Text(ids, answer) for ids, answer in zip(prompts, answers, strict=True) if answer]
    lengths, kept = [len(text.answer) for text in texts], min(KEPT, model.config.get_text_config().vocab_size)
    # In one block. Laid down as they come, they would lie between the places of the logits, and glibc could not give
    # these out again: 20 MB for each answer of a base with 152 000 words, 4 GB in all.
    ids = torch.split(torch.empty(sum(lengths), kept, dtype=torch.long), lengths)
    logs = torch.split(torch.empty(sum(lengths), kept), lengths)
    for batch in batches(texts, model):
        for index, logits in zip(batch, answer_logits(model, [texts[index] for index in batch]), strict=True):
            top = torch.log_softmax(logits, -1).topk(kept, -1)
            ids[index].copy_(top.indices)
            logs[index].copy_(top.values)
    return [Memory(*one) for one in zip(texts, ids, logs, strict=True)]


def _packed(made: Sequence[Memory]) -> dict[str, torch.Tensor]:
    sizes = [(len(one.text.prompt), len(one.text.answer)) for one in made]
    tokens = [token for one in made for token in (*one.text.prompt, *one.text.answer)]
    return {
        "sizes": torch.tensor(sizes, dtype=torch.int32).view(-1, 2),
        "tokens": torch.tensor(tokens, dtype=torch.int32),
        "ids": torch.cat([one.ids.int() for one in made]),
        "logs": torch.cat([one.logs for one in made]),
    }


def _unpacked(stored: dict[str, torch.Tensor]) -> list[Memory]:
    tokens, found = stored["tokens"].tolist(), list[Memory]()
    at = place = 0
    for before, after in stored["sizes"].tolist():
        text = Text(tokens[at : at + before], tokens[at + before : at + before + after])
        some = slice(place, place + after)
        found.append(Memory(text, stored["ids"][some].long(), stored["logs"][some]))
        at, place = at + before + after, place + after
    return found


def check_memory(known: str | None, found: str | None) -> None:
    """Refuse to go on with other answers and rows than the run began with.

    Raises:
        UserError: They are not the same.
    """
    if known not in (None, found):
        raise UserError(
            "--resume",
            either(
                "other answers of the base, or another practice, than at the start", "基座的回答或练习已与开始时不同"
            ),
            either("those this run began with", "与开始时相同"),
            either("train anew in another --out", "换一个 --out 重新训练"),
        )
