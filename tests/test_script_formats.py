"""The exported constraints allow what the parser reads without a fault, and nothing else; their own libraries judge."""

from __future__ import annotations

import itertools
import re

import llguidance
import pytest

from actune.script.events import Fault
from actune.script.formats import lark, regex, structural_tag
from actune.script.parser import parse

LISTS = ((), ("a",), ("a", "b&", "a<b", '做 饭-"炒\\".'))
# Everything up to six characters of what matters, and a few longer ones.
TEXTS = [
    "".join(letters) for size in range(7) for letters in itertools.product("<&>a" if size < 6 else "<&a", repeat=size)
] + ["<&b&&>", "x\n<<&a<b&>&>", '<&做 饭-"炒\\".&>好', "<&做 饭&>", "<&b&>", "炒<&a&><&a", "\r\n<&"]


def sound(text: str, names: tuple[str, ...]) -> bool:
    return not any(isinstance(event, Fault) for event in parse(text, names))


@pytest.mark.parametrize("names", LISTS)
def test_the_regex_is_the_language_of_the_parser(names):
    pattern = re.compile(regex(names))
    assert [text for text in TEXTS if bool(pattern.fullmatch(text)) != sound(text, names)] == []


@pytest.mark.parametrize("names", LISTS)
def test_xgrammar_reads_the_structural_tag_alike(names):
    xgrammar = pytest.importorskip("xgrammar", reason="xgrammar is not installed (make install)")
    tokens = xgrammar.TokenizerInfo([bytes([byte]) for byte in range(256)] + [b"</s>"], stop_token_ids=[256])
    matcher = xgrammar.GrammarMatcher(xgrammar.GrammarCompiler(tokens).compile_structural_tag(structural_tag(names)))

    def takes(text: str) -> bool:
        matcher.reset()
        return matcher.accept_string(text) and matcher.accept_token(256)

    assert [text for text in TEXTS[::7] + TEXTS[-7:] if takes(text) != sound(text, names)] == []


@pytest.mark.parametrize("names", LISTS)
def test_llguidance_reads_the_lark_grammar_alike(names):
    tokenizer = llguidance.LLTokenizer("byte")
    grammar = llguidance.LLMatcher.grammar_from_lark(lark(names))

    def takes(text: str) -> bool:
        matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0)
        return matcher.try_consume_tokens(list(text.encode())) == len(text.encode()) and matcher.is_accepting()

    assert [text for text in TEXTS[::7] + TEXTS[-7:] if takes(text) != sound(text, names)] == []
