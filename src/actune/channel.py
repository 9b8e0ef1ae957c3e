"""The choice of an action seen from its other end: how probable is what was said, if this action was wanted?

A small model that is asked for a name after a question knows little of names that it never wrote. The same model, asked
for the question after the name, has only words of people to judge, which it has read all its life. By Bayes' rule both
say the same; together they choose better than either (noisy channel: Min et al., "Noisy Channel Language Model
Prompting for Few-Shot Text Classification", ACL 2022, arXiv:2108.04106).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from actune.prompt_format import Language, language_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BEFORE: dict[Language, str] = {"en": 'A request that wants "{}":\n', "zh": "想要“{}”的人会说：\n"}
# In place of a name: how the question would be put if nothing were known of what it wants.
UNNAMED = ""
ANYTHING: dict[Language, str] = {"en": "something", "zh": "做某事"}
# What signs part in names, prose parts by spaces.
_SIGNS = re.compile(r"[-_./:]+")
# Tokens of a question that are looked at: its end, where a wish stands more often than at the beginning of a story.
MOST_TOKENS = 64


class Channel(NamedTuple):
    """A question after each of the actions that it may want.

    Args:
        before: Token ids of what stands before it, for each name and for `UNNAMED`.
        asked: Token ids of the question.
        told: log p(question | name), nats, of those that were read: an answer written again need not read them again.
    """

    before: Mapping[str, list[int]]
    asked: list[int]
    told: dict[str, float]


def before_ids(tokenizer: PreTrainedTokenizerBase, name: str, language: Language) -> list[int]:
    """Write the text after which a question is to be expected that wants this action, as token ids.

    It begins with the token that begins texts, or, where the base has none, with the one that ends them.
    """
    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    text = BEFORE[language].format(_SIGNS.sub(" ", name).strip())
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids if begin is None else [begin, *ids]


def asked_ids(tokenizer: PreTrainedTokenizerBase, question: str) -> list[int]:
    """Token ids of a question, of a long one those at its end."""
    ids: list[int] = tokenizer(question, add_special_tokens=False)["input_ids"]
    return ids[-MOST_TOKENS:]


def channel_of(tokenizer: PreTrainedTokenizerBase, question: str, names: tuple[str, ...]) -> Channel:
    """Write a question after each of some names."""
    language = language_of([question])
    before = {name: before_ids(tokenizer, name or ANYTHING[language], language) for name in (*names, UNNAMED)}
    return Channel(before, asked_ids(tokenizer, question), {})
