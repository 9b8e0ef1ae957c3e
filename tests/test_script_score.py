"""The scores mean what their definitions say."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actune.script.events import Act, Done, Event, Fault, Say
from actune.script.parser import parse
from actune.script.score import METRICS, Outcome, measure, ratios, tally

LIST = ("a", "b", "c", "d")


def answer(
    text: str,
    *wanted: str,
    ordered: bool = True,
    reference: str | None = None,
    done: Done | None = None,
    names: tuple[str, ...] | None = LIST,
) -> Outcome:
    written: tuple[Event, ...] = (*parse(text, names), *([done] if done else []))
    return Outcome(wanted, ordered, LIST, written, None if reference is None else tuple(parse(reference)))


def score(*outcomes: Outcome) -> dict[str, float | None]:
    return measure(outcomes)


def test_nothing_is_undefined() -> None:
    assert score() == dict.fromkeys(METRICS)


def test_the_perfect_answer_scores_one() -> None:
    one = answer("x <&a&> y <&b&>", "a", "b", reference="p<&a&>q<&b&>", done=Done("stop"))
    none = answer("words", reference="other words", done=Done("stop"))
    result = score(one, none)
    good = ("valid", "precision", "recall", "f1", "exact_act", "exact_none", "order", "position", "none_right")
    assert {name: result[name] for name in good} == dict.fromkeys(good, 1.0)
    bad = ("false_action", "repeat", "unclosed", "cut")
    assert {name: result[name] for name in bad} == dict.fromkeys(bad, 0.0)


def test_counts_are_summed_over_answers_and_taken_as_multisets() -> None:
    # Named: a a b | c; wanted: a a c | nothing. Both have: a a.
    result = score(answer("<&a&><&a&><&b&>", "a", "a", "c"), answer("<&c&>"))
    assert (result["precision"], result["recall"]) == (2 / 4, 2 / 3)
    assert result["f1"] == 2 * 2 / (4 + 3)


def test_a_silent_model_has_no_precision_and_no_order_but_is_right_where_none_is_wanted() -> None:
    result = score(answer("no", "a", "b"), answer("no"))
    assert result["precision"] is result["valid"] is result["order"] is result["repeat"] is None
    assert (result["recall"], result["f1"], result["exact_act"]) == (0, 0, 0)
    assert (result["exact_none"], result["none_right"], result["false_action"]) == (1, 1, 0)


@pytest.mark.parametrize("names", [LIST, None])
def test_an_invented_action_is_a_wrong_choice_however_it_was_parsed(names: tuple[str, ...] | None) -> None:
    result = score(answer("<&a&><&fly&>", "a", names=names))
    assert (result["valid"], result["precision"], result["recall"], result["exact_act"]) == (0.5, 0.5, 1, 0)
    # It moves no body, but it is no restraint either.
    none = score(answer("<&fly&>", names=names))
    assert (none["none_right"], none["false_action"], none["exact_none"]) == (0, 0, 0)


def test_malformed_tags_are_invalid_and_spoil_exactness_but_name_nothing() -> None:
    result = score(answer("<&a&><&&><&b", "a"), answer("<&"))
    assert result["valid"] == 1 / 4
    assert (result["precision"], result["exact_act"], result["unclosed"]) == (1, 0, 1)
    assert (result["exact_none"], result["none_right"], result["false_action"]) == (0, 1, 0)
    assert score(answer("<&a<&b&>", "b"))["unclosed"] == 1


def test_order_counts_only_where_it_is_said_to() -> None:
    assert score(answer("<&b&><&a&>", "a", "b"))["exact_act"] == 0
    free = score(answer("<&b&><&a&>", "a", "b", ordered=False))
    assert (free["exact_act"], free["order"]) == (1, None)


def test_order_is_the_share_of_pairs_that_both_have() -> None:
    # Wanted a b c d; of the pairs among a, c, d only c-d is turned round.
    assert score(answer("<&a&><&d&><&c&>", "a", "b", "c", "d"))["order"] == 2 / 3
    # The second a matches the second a; equal names make no pair.
    assert score(answer("<&a&><&a&><&b&>", "a", "b", "a"))["order"] == 1 / 2
    assert score(answer("<&a&>", "a", "b"))["order"] is None


@pytest.mark.parametrize(
    ("text", "reference", "wanted"),
    [
        ("x<&a&>", "y<&a&>", 1.0),
        ("<&a&>x", "y<&a&>", 0.0),
        ("x<&a&>y", "x<&a&>", 0.0),
        ("\n<&a&>\nx", "<&a&>yes", 1.0),  # Blanks are no words.
        ("<&a&>x<&b&>", "<&a&><&b&>x", 0.5),
        ("x<&b&>", "x<&a&>", None),
    ],
)
def test_position_compares_the_words_around_an_action(text: str, reference: str, wanted: float | None) -> None:
    assert score(answer(text, "a", reference=reference))["position"] == wanted


def test_repeats_are_what_stands_more_often_than_wanted() -> None:
    assert score(answer("<&a&><&a&><&a&><&b&>", "a", "a"))["repeat"] == 1 / 4
    assert score(answer("<&a&><&b&>", "c"))["repeat"] == 0


def test_cut_is_told_by_the_end() -> None:
    done, length = Done("stop"), Done("length")
    assert score(answer("x", done=done), answer("x", done=length), answer("x"))["cut"] == 1 / 2


def test_an_engine_that_failed_wrote_no_tag() -> None:
    outcome = Outcome((), True, LIST, (Fault("model", "nan"), Done("interrupted")))
    assert (measure([outcome])["valid"], measure([outcome])["exact_none"]) == (None, 1)


names = st.sampled_from(["a", "b", "c", "fly"])
pieces = st.lists(
    st.one_of(
        st.builds(Say, st.sampled_from(["hello", " ", "\n"])),
        st.builds(Act, names),
        st.builds(lambda name: Fault("unlisted", f"<&{name}&>"), st.just("fly")),
        st.just(Fault("unclosed", "<&a")),
        st.builds(Done, st.sampled_from(["stop", "length"])),
    ),
    max_size=8,
).map(tuple)
outcomes = st.builds(
    Outcome,
    st.lists(st.sampled_from(["a", "b", "c"]), max_size=4).map(tuple),
    st.booleans(),
    st.just(("a", "b", "c")),
    pieces,
    st.none() | pieces,
)


@given(st.lists(outcomes, max_size=6))
def test_every_score_is_a_share_or_undefined(some: list[Outcome]) -> None:
    result = measure(some)
    assert tuple(result) == METRICS
    assert all(value is None or 0 <= value <= 1 for value in result.values())
    if result["precision"] and result["recall"]:
        assert math.isclose(
            result["f1"] or 0, 2 * result["precision"] * result["recall"] / (result["precision"] + result["recall"])
        )


@given(st.lists(outcomes, max_size=6), st.randoms(use_true_random=False))
def test_neither_the_order_of_rows_nor_their_grouping_matters(some: list[Outcome], random: object) -> None:
    mixed = list(some)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert measure(mixed) == measure(some)
    assert ratios([tally(each) for each in some]) == measure(some)


@given(outcomes)
def test_an_exact_answer_has_full_f1(outcome: Outcome) -> None:
    result = measure([outcome])
    if result["exact_act"] == 1:
        assert result["f1"] == 1
        assert result["order"] in (1, None)


@given(st.lists(st.sampled_from(["a", "b", "c"]), max_size=5))
def test_the_reference_itself_is_perfect(wanted: list[str]) -> None:
    events = tuple(Act(name) for name in wanted)
    result = measure([Outcome(tuple(wanted), True, ("a", "b", "c"), events, events)])
    assert result["exact_act"] in (1, None)
    assert result["position"] in (1, None)
    assert result["repeat"] in (0, None)
