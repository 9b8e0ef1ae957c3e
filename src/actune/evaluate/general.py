"""How much a tuned model forgot: its distance from the base on questions that have nothing to do with acting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files

from actune import prompt
from actune.engine.local import Request
from actune.evaluate.answers import BATCH, numbers
from actune.evaluate.likelihood import Text, divergence_parts
from actune.evaluate.systems import System
from actune.prompt import PromptFormat
from actune.prompt_format import Language
from actune.script.score import Part

MAX_TOKENS = 48
# A plain assistant: with our own system text the training shall change the answers, and that is not forgetting.
SYSTEM: dict[Language, str] = {"en": "You are a helpful assistant.", "zh": "你是一个乐于助人的助手。"}


@dataclass(frozen=True)
class General:
    """A general question and the base's answer to it, as token ids."""

    language: Language
    text: Text


def questions() -> list[tuple[Language, str]]:
    """Return the general questions: 30 in each language, written for actune."""
    languages: tuple[Language, ...] = ("en", "zh")
    return [
        (language, line)
        for language in languages
        for line in (files(__package__) / f"general.{language}.txt").read_text(encoding="utf-8").splitlines()
    ]


def base_answers(base: System, advance: Callable[[int], None]) -> list[General]:
    """Let the base answer the general questions, greedily and freely, as a plain assistant without actions.

    Raises:
        UserError: The model's logits are not numbers.
    """
    asked = questions()
    actor = base.actor
    chat_template = actor.format_for("").chat_template
    prompts = []
    for language, question in asked:
        fmt = PromptFormat(language, SYSTEM[language], chat_template)
        prompts.append(prompt.render_ids(actor.tokenizer, fmt, question, ()))
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
