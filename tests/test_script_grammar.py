from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actune.script.events import Act, Fault
from actune.script.grammar import Grammar
from actune.script.parser import parse
from actune.script.vocabulary import Vocabulary
from script_tools import NAMES, Dice, byte_fallback, byte_level, names_of, shortest, valid_beginning

KINDS = {"level": byte_level, "fallback": byte_fallback}
PADDING = 5


@lru_cache
def vocabulary_of(kind: str) -> Vocabulary:
    tokenizer = KINDS[kind]()
    stops = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|start|>")]
    return Vocabulary.from_tokenizer(tokenizer, len(tokenizer) + PADDING, stops)


def tokens(vocabulary: Vocabulary, text: str) -> list[int]:
    """Spell a text with single-byte tokens."""
    return [vocabulary.ids[vocabulary.keys.index(bytes((byte,)))][0] for byte in text.encode()]


def state_after(grammar: Grammar, text: str) -> int:
    state = grammar.start
    for token in tokens(grammar.vocabulary, text):
        state = grammar.step(state, token)
    return state


def oracle_mask(vocabulary: Vocabulary, written: bytes, names: tuple[str, ...]) -> np.ndarray:
    mask = [data is not None and valid_beginning(written + data, names)[0] for data in vocabulary.token_bytes]
    if names == ():  # then even the empty beginning of a tag is no way
        mask = [
            ok and b"<&" not in written + (data or b"") for ok, data in zip(mask, vocabulary.token_bytes, strict=True)
        ]
    for i in vocabulary.stop_ids:
        mask[i] = not valid_beginning(written, names)[1]
    return np.array(mask)


def written_by(vocabulary: Vocabulary, ids: list[int]) -> bytes:
    return b"".join(vocabulary.token_bytes[i] or b"" for i in ids)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, 1, 4, 64])
def test_masks_equal_a_byte_level_oracle(kind: str, count: int) -> None:
    vocabulary, names = vocabulary_of(kind), names_of(count)
    grammar, dice = Grammar(vocabulary, names), Dice(vocabulary_of(kind), seed=count)
    for _ in range(4):
        state, ids = grammar.start, []
        for _ in range(40):
            mask, wanted = grammar.mask(state), oracle_mask(vocabulary, written_by(vocabulary, ids), names)
            assert np.flatnonzero(mask != wanted).tolist() == []
            assert grammar.inside(state) == valid_beginning(written_by(vocabulary, ids), names)[1]
            token = int(np.where(mask & vocabulary.ordinary, dice.logits(), -np.inf).argmax())
            state = grammar.step(state, token)
            ids.append(token)


@pytest.mark.parametrize("kind", KINDS)
def test_step_takes_exactly_what_the_mask_allows(kind: str) -> None:
    vocabulary = vocabulary_of(kind)
    grammar = Grammar(vocabulary, NAMES)
    for text in ("", "<", "<<", "<&", "<&a", "<&换衣服-裙子", "<&换衣服-裙子-", "<&&", "<&a&", "<&a<"):
        state = state_after(grammar, text)
        mask = grammar.mask(state)
        for token in range(-1, vocabulary.size + 1):
            if 0 <= token < vocabulary.size and mask[token]:
                grammar.step(state, token)
            else:
                with pytest.raises(ValueError, match="forbidden"):
                    grammar.step(state, token)


@pytest.mark.parametrize("kind", KINDS)
def test_special_padding_and_stop_tokens(kind: str) -> None:
    vocabulary = vocabulary_of(kind)
    grammar = Grammar(vocabulary, ("a", "secret"))
    assert len(vocabulary.stop_ids) == 2
    silent = ~vocabulary.ordinary
    silent[list(vocabulary.stop_ids)] = False
    for text in ("", "x<", "<&a&>", "<&", "<&a", "<&a&"):
        mask = grammar.mask(state_after(grammar, text))
        assert not mask[silent].any()
        assert not mask[-PADDING:].any()
        assert mask[list(vocabulary.stop_ids)].all() == (text in ("", "x<", "<&a&>"))
        assert mask[list(vocabulary.stop_ids)].any() == (text in ("", "x<", "<&a&>"))


def test_text_goes_on_within_the_closing_token() -> None:
    token_bytes = [bytes((byte,)) for byte in range(128)] + [b"&>!", b"&><&", b"&><", b"&><&z", b"<&a&>x", b"<<&", None]
    vocabulary = Vocabulary(token_bytes, 140, [139])
    grammar = Grammar(vocabulary, ("a", "ab"))
    mask = grammar.mask(state_after(grammar, "<&a"))
    assert np.flatnonzero(mask).tolist() == [ord("&"), ord("b"), 128, 129, 130]
    assert grammar.step(state_after(grammar, "<&a"), 128) == grammar.start
    assert grammar.step(state_after(grammar, "<&a"), 129) == state_after(grammar, "<&")
    assert grammar.step(state_after(grammar, "<&a"), 130) == state_after(grammar, "<")
    assert grammar.mask(grammar.start)[[132, 133]].all()
    assert grammar.step(grammar.start, 133) == state_after(grammar, "<&")
    # With one more token after this one a new tag cannot be opened and closed.
    assert not grammar.mask(state_after(grammar, "<&a"), 2)[129]
    assert grammar.mask(state_after(grammar, "<&a"), 2)[[ord("&"), 128, 130]].all()
    assert not grammar.mask(state_after(grammar, "<&a"), 2)[ord("b")] or grammar.closing(
        state_after(grammar, "<&ab")
    ) == [128]


def test_no_names_no_tag() -> None:
    for kind in KINDS:
        vocabulary = vocabulary_of(kind)
        grammar = Grammar(vocabulary, ())
        amp, less = tokens(vocabulary, "&<")
        assert grammar.mask(grammar.start)[amp]
        assert not grammar.mask(state_after(grammar, "<"))[amp]
        assert not grammar.mask(state_after(grammar, "<<"), 3)[amp]
        assert grammar.mask(state_after(grammar, "<"))[less]
        assert not any(grammar.mask(grammar.start)[list(vocabulary.ids[key])].any() for key in vocabulary.opening)
        with pytest.raises(ValueError, match="forbidden"):
            grammar.step(state_after(grammar, "<"), amp)


def test_names_no_tokens_can_spell_are_never_begun() -> None:
    vocabulary = Vocabulary([b"<", b"&", b">", b"a", b"b", b"<&"], 7, [6])
    grammar = Grammar(vocabulary, ("ax", "b", "z"))
    root = state_after(grammar, "<&")
    assert np.flatnonzero(grammar.mask(root)).tolist() == [4]
    assert not Grammar(vocabulary, ("z",)).mask(0)[5]
    with pytest.raises(ValueError, match="forbidden"):
        grammar.step(root, 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("begun", ["", "a", "换", "换衣服-裙子", "t", "&", "表情-"])
def test_closing_is_the_shortest_way(kind: str, begun: str) -> None:
    vocabulary = vocabulary_of(kind)
    grammar = Grammar(vocabulary, NAMES)
    state = state_after(grammar, "<&" + begun)
    way = grammar.closing(state)
    rest = [f"{name}&>".encode().removeprefix(begun.encode()) for name in NAMES if f"{name}&>".startswith(begun)]
    assert len(way) == min(shortest(vocabulary, tag, NAMES) for tag in rest)
    for left, token in zip(range(len(way), 0, -1), way, strict=True):
        assert grammar.mask(state, left)[token]
        state = grammar.step(state, token)
    assert not grammar.inside(state)
    assert grammar.closing(grammar.start) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["", "<", "<&", "<&换衣服-裙子", "<&kind"])
def test_budget_allows_exactly_what_can_still_be_closed(kind: str, text: str) -> None:
    vocabulary = vocabulary_of(kind)
    grammar = Grammar(vocabulary, names_of(40))
    state = state_after(grammar, text)
    for budget in (1, 2, 3, 4, 6, 12, 60):
        wanted = grammar.mask(state).copy()
        for token in np.flatnonzero(wanted & vocabulary.ordinary):
            wanted[token] = len(grammar.closing(grammar.step(state, int(token)))) <= budget - 1
        if wanted.any():
            assert np.flatnonzero(grammar.mask(state, budget) != wanted).tolist() == []
        else:  # too late: the shortest way
            short = len(grammar.closing(state)) - 1
            for token in np.flatnonzero(grammar.mask(state, budget)):
                assert len(grammar.closing(grammar.step(state, int(token)))) == short
            assert grammar.mask(state, budget).any()


def test_masks_are_kept() -> None:
    grammar = Grammar(vocabulary_of("level"), NAMES)
    state = state_after(grammar, "<&")
    assert grammar.mask(state) is grammar.mask(state, 200)
    assert grammar.mask(state, 2) is grammar.mask(state, 2)


def test_names_are_checked() -> None:
    for names in (("a", "a"), ("a&>b",), ("",)):
        with pytest.raises(ValueError, match="action name"):
            Grammar(vocabulary_of("level"), names)


def faults(
    vocabulary: Vocabulary, names: tuple[str, ...], count: int, seed: int, longest: int = 200
) -> tuple[int, int]:
    """Write `count` answers with budgets 1 to `longest`; count the faulty ones and the actions."""
    grammar, dice = Grammar(vocabulary, names), Dice(vocabulary, seed)
    faulty = actions = 0
    for n in range(count):
        ids, _ = dice.write(grammar, n * 37 % longest + 1)
        events = parse([written_by(vocabulary, ids)], names)
        faulty += any(isinstance(event, Fault) for event in events)
        actions += sum(isinstance(event, Act) for event in events)
    return faulty, actions


@pytest.mark.parametrize("kind", KINDS)
def test_500_random_answers_hold_no_faulty_tag(kind: str) -> None:
    for names, count in ((NAMES, 300), (names_of(512), 170), (names_of(2_000), 20), (("tea",), 20)):
        faulty, actions = faults(vocabulary_of(kind), names, count, seed=count)
        assert faulty == 0
        assert actions > count
    assert faults(vocabulary_of(kind), (), 30, seed=9) == (0, 0)


def test_random_answers_without_the_constraint_are_faulty() -> None:
    vocabulary, bad = vocabulary_of("level"), 0
    dice = Dice(vocabulary, seed=4)
    for _ in range(30):
        ids = [int(np.where(vocabulary.ordinary, dice.logits(), -np.inf).argmax()) for _ in range(100)]
        bad += any(isinstance(event, Fault) for event in parse([written_by(vocabulary, ids)], NAMES))
    assert bad >= 25


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_10_000_random_answers_hold_no_faulty_tag(kind: str) -> None:
    for names, count in ((("tea",), 1_000), (names_of(64), 7_000), (names_of(2_000), 2_000)):
        faulty, actions = faults(vocabulary_of(kind), names, count, seed=1)
        assert faulty == 0
        assert actions > count


@given(st.lists(st.text(st.sampled_from("ab<&>饭 "), min_size=1, max_size=4), max_size=6, unique=True), st.data())
def test_any_catalogue_equals_the_oracle(names: list[str], data: st.DataObject) -> None:
    good = tuple(n for n in names if n == n.strip() and "<&" not in n and "&>" not in n)
    token_bytes = [bytes((byte,)) for byte in "ab<&>饭 ".encode()]
    token_bytes += [b"<&", b"&>", b"a&", b"&><", b"&><&", b"<<", b"<&a&>", b"a<&", b">&", b"&&>", "饭".encode()]
    vocabulary = Vocabulary(token_bytes, len(token_bytes) + 1, [len(token_bytes)])
    grammar = Grammar(vocabulary, good)
    state, written = grammar.start, b""
    for left in range(data.draw(st.integers(1, 12)), 0, -1):
        assert np.array_equal(grammar.mask(state), oracle_mask(vocabulary, written, good))
        token = data.draw(st.sampled_from(np.flatnonzero(grammar.mask(state, left) & vocabulary.ordinary).tolist()))
        state, written = grammar.step(state, token), written + token_bytes[token]
    assert not grammar.inside(state)
    assert not any(isinstance(event, Fault) for event in parse([written], good))
