"""The automaton against xgrammar and llguidance. The differences that are meant:

* xgrammar sees no special tokens in Hugging Face tokenizers and lets them through in words. Ids that we never write
  (special, padding, without bytes) are therefore left out of the comparison; test_script_grammar.py holds that they are
  forbidden. Every other bit, in words and in tags, must be equal.
* llguidance refuses, in words, tokens that break UTF-8 and added tokens, special or not (`excused`); all other bits
  there must be equal. In tags, where only one text can follow, it allows only that text's usual tokens, so there its
  mask must be a part of ours and not empty. Stop ids are not compared: it knows one of several.
"""

import codecs
import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from actune.script.events import Act, Fault
from actune.script.formats import lark, structural_tag
from actune.script.grammar import Grammar
from actune.script.parser import parse
from actune.script.vocabulary import Vocabulary
from script_tools import Dice, byte_fallback, byte_level, names_of

xgrammar = pytest.importorskip("xgrammar", reason="xgrammar is not installed (make install)")
llg_hf = pytest.importorskip("llguidance.hf")
llg_torch = pytest.importorskip("llguidance.torch")
LLMatcher = pytest.importorskip("llguidance").LLMatcher

SMALL = {"level": byte_level, "fallback": byte_fallback}
COUNTS = (4, 64, 512)


@lru_cache
def base(name: str):
    """Give (tokenizer, vocabulary) of a small tokenizer or a bundled base."""
    if name in SMALL:
        tokenizer = SMALL[name]()
        size, stops = len(tokenizer), [tokenizer.eos_token_id]
    else:
        from actune.base.source import resolve
        from actune.errors import UserError

        try:
            path = Path(resolve(name).path)
        except UserError as error:
            pytest.skip(str(error))
        tokenizer = AutoTokenizer.from_pretrained(path)
        size = json.loads((path / "config.json").read_text(encoding="utf-8"))["vocab_size"]
        generation = json.loads((path / "generation_config.json").read_text(encoding="utf-8"))
        eos = generation["eos_token_id"]
        stops = eos if isinstance(eos, list) else [eos]
    return tokenizer, Vocabulary.from_tokenizer(tokenizer, size, stops)


@lru_cache
def compiler_of(name: str):
    tokenizer, vocabulary = base(name)
    stops = list(vocabulary.stop_ids)
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocabulary.size, stop_token_ids=stops)
    return xgrammar.GrammarCompiler(info, max_threads=1)


def xgrammar_matcher(name: str, names: tuple[str, ...]):
    return xgrammar.GrammarMatcher(
        compiler_of(name).compile_structural_tag(structural_tag(names)),
        override_stop_tokens=list(base(name)[1].stop_ids),
    )


@lru_cache
def llguidance_tokenizer(name: str):
    tokenizer, vocabulary = base(name)
    return llg_hf.from_tokenizer(tokenizer, n_vocab=vocabulary.size)


def llguidance_matcher(name: str, names: tuple[str, ...]):
    return LLMatcher(llguidance_tokenizer(name), LLMatcher.grammar_from_lark(lark(names)), log_level=0)


def bits(bitmask: torch.Tensor, size: int) -> np.ndarray:
    packed = bitmask.numpy().view(np.uint8).reshape(-1)
    return np.unpackbits(packed, bitorder="little")[:size].astype(bool)


def sound(written: bytes) -> bool:
    """Tell whether bytes begin a UTF-8 text."""
    try:
        codecs.getincrementaldecoder("utf-8")("strict").decode(written)
    except UnicodeDecodeError:
        return False
    # Python waits for the third byte before it refuses a surrogate.
    return not (written[-2:-1] == b"\xed" and written[-1] >= 0xA0)


def excused(added: frozenset[int], vocabulary: Vocabulary, written: bytes, token: int) -> bool:
    """Tell whether llguidance may refuse in words what we allow."""
    return token in added or not sound(written + (vocabulary.token_bytes[token] or b""))


def compare(name: str, count: int, walks: int, length: int) -> tuple[int, int, int]:
    """Walk at random and compare masks; gives (bits unlike xgrammar's, unlike llguidance's, masks compared)."""
    tokenizer, vocabulary = base(name)
    added = frozenset(tokenizer.added_tokens_decoder)
    names = names_of(count)
    grammar, dice = Grammar(vocabulary, names), Dice(vocabulary, seed=count)
    x_mask = xgrammar.allocate_token_bitmask(1, vocabulary.size)
    l_mask = llg_torch.allocate_token_bitmask(1, vocabulary.size)
    writable = vocabulary.ordinary.copy()
    writable[list(vocabulary.stop_ids)] = True
    unlike_x = unlike_l = compared = 0
    for _ in range(walks):
        x, guide = xgrammar_matcher(name, names), llguidance_matcher(name, names)
        state, written = grammar.start, b""
        for _ in range(length):
            ours = grammar.mask(state)
            x_mask.fill_(-1)  # a mask that allows all is left untouched
            x.fill_next_token_bitmask(x_mask)
            unlike_x += int((ours != (bits(x_mask, vocabulary.size) & writable)).sum())
            llg_torch.fill_next_token_bitmask(guide, l_mask, 0)
            theirs = bits(l_mask, vocabulary.size)
            # Its own end of sentence is one id; the other stop ids are ours to add.
            theirs[list(vocabulary.stop_ids)] = ours[list(vocabulary.stop_ids)]
            unlike_l += int((theirs & ~ours).sum())
            missing = np.flatnonzero(ours & ~theirs).tolist()
            if grammar.inside(state):
                unlike_l += not theirs.any()
            else:
                unlike_l += sum(not excused(added, vocabulary, written, token) for token in missing)
            compared += 1
            token = int(np.where(ours & theirs & vocabulary.ordinary, dice.logits(), -np.inf).argmax())
            state, written = grammar.step(state, token), written + (vocabulary.token_bytes[token] or b"")
            assert x.accept_token(token)
            assert guide.consume_token(token)
        del x, guide
    return unlike_x, unlike_l, compared


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", SMALL)
def test_masks_equal_the_oracles(name: str, count: int) -> None:
    assert compare(name, count, walks=5, length=60) == (0, 0, 300)


@pytest.mark.slow
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_masks_equal_the_oracles_on_bundled_bases(name: str, count: int) -> None:
    assert compare(name, count, walks=10, length=60) == (0, 0, 600)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_2_000_random_answers_on_bundled_bases_hold_no_faulty_tag(name: str) -> None:
    _, vocabulary = base(name)
    names = names_of(64)
    grammar, dice = Grammar(vocabulary, names), Dice(vocabulary, seed=5, push=5.0)
    faulty = actions = 0
    for n in range(2_000):
        ids, _ = dice.write(grammar, n % 200 + 1)
        events = parse([b"".join(vocabulary.token_bytes[i] or b"" for i in ids)], names)
        faulty += any(isinstance(event, Fault) for event in events)
        actions += sum(isinstance(event, Act) for event in events)
    assert faulty == 0
    assert actions > 2_000
