"""How much a tuned model forgot: its distance from the base on questions that have nothing to do with acting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from actune.engine.local import Request
from actune.engine.logits import Text
from actune.evaluate.answers import BATCH, numbers
from actune.evaluate.likelihood import divergence_parts
from actune.evaluate.systems import System
from actune.prompt_format import Language
from actune.script.score import Part
from actune.tune.remember import plain_prompts, read_questions

MAX_TOKENS = 48


@dataclass(frozen=True)
class General:
    """A general question and the base's answer to it, as token ids."""

    language: Language
    text: Text


def questions() -> list[tuple[Language, str]]:
    """Return the general questions: 30 in each language, written for actune."""
    return read_questions(Path(__file__).parent)


def base_answers(base: System, advance: Callable[[int], None]) -> list[General]:
    """Let the base answer the general questions, greedily and freely, as a plain assistant without actions.

    Raises:
        UserError: The model's logits are not numbers.
    """
    asked = questions()
    actor = base.actor
    prompts = plain_prompts(actor.tokenizer, actor.format_for("").chat_template, asked)
    with base.on(), numbers(base.name):
        answers = actor.local.generate([Request(ids, None, MAX_TOKENS) for ids in prompts], BATCH)
    advance(len(asked))
    return [
        General(language, Text(ids, answer))
        for (language, _), ids, answer in zip(asked, prompts, answers, strict=True)
        if answer
    ]


def forgotten(base: System, tuned: System, general: list[General], advance: Callable[[int], None]) -> list[Part]:
    """Return for each question the sum of KL(base || tuned) over the tokens of the base's answer, and their number."""
    return divergence_parts(base, tuned, [each.text for each in general], advance)
