from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actune.data import augment as room
from actune.data.augment import Stock, all_actions, augment, used_actions
from actune.data.load import load_rows
from actune.data.refusals import OURS, refusals
from actune.data.rename import STYLES, respelled
from actune.data.rows import Row, Turn
from actune.script.catalogue import catalogue
from conftest import make_rows

POOL = Stock(tuple(sorted(("做饭-炒冬瓜", "light-dim", "a b", "c/d", "e,f", "跳舞-华尔兹"))), {}, ())
ROWS = make_rows(12)


def test_without_distractors_the_list_is_only_shuffled() -> None:
    row = ROWS[1]
    seen = {augment(row, POOL, epoch, 1, 42, False).actions for epoch in range(20)}
    assert len(seen) > 5
    assert all(sorted(actions) == sorted(row.actions) for actions in seen)


@given(st.integers(0, 99), st.sampled_from(range(12)), st.integers(0, 99))
def test_it_is_a_pure_function_that_keeps_what_the_answer_uses(epoch: int, index: int, seed: int) -> None:
    row = ROWS[index]
    varied = augment(row, POOL, epoch, index, seed, True)
    assert varied == augment(row, POOL, epoch, index, seed, True)
    assert set(used_actions(row)) <= set(varied.actions) <= {*row.actions, *POOL.names}
    assert len(set(varied.actions)) == len(varied.actions)
    assert (varied.question, varied.script, varied.line) == (row.question, row.script, row.line)


def test_lists_grow_and_shrink_and_one_unused_action_stays() -> None:
    row = ROWS[1]
    lists = [set(augment(row, POOL, epoch, 1, 42, True).actions) for epoch in range(200)]
    assert any(names - set(row.actions) for names in lists), "no distractor was ever added"
    assert any(set(row.actions) - names for names in lists), "nothing was ever dropped"
    assert all(names & set(row.actions) - set(used_actions(row)) for names in lists)


def test_a_row_that_does_not_act_gets_no_foreign_action() -> None:
    row = Row(actions=("a", "b", "c"), question="Who are you?", script="I am me.")
    assert all(set(augment(row, POOL, epoch, 0, 1, True).actions) <= set(row.actions) for epoch in range(100))


@given(st.lists(st.sampled_from("abcdefgxyz"), unique=True), st.integers(0, 999))
def test_others_are_drawn_from_all_names_that_are_not_listed(listed: list[str], seed: int) -> None:
    pool = tuple("abcdefgh")
    draw, left = random.Random(seed), sorted(set(pool) - set(listed))
    wanted = draw.sample(left, min(len(left), draw.randint(0, room.MOST_ADDED)))
    assert room._others(listed, set(), pool, random.Random(seed)) == wanted


def test_an_empty_list_stays_empty() -> None:
    row = Row(actions=(), question="Who are you?", script="I am me.")
    assert augment(row, POOL, 0, 0, 1, True).actions == ()


def test_the_result_is_the_same_in_every_process() -> None:
    # Pinned: Python's own hash of a text differs from process to process and must play no part.
    assert augment(ROWS[0], POOL, 3, 0, 42, False).actions == ("杯子-倒水", "换衣服-裙子", "做饭-炒冬瓜", "切开-西瓜")


EXAMPLES = [load_rows([Path(__file__).parents[1] / "examples" / f"actions_{lang}.csv"]) for lang in ("en", "zh")]


@pytest.fixture
def lift(request: pytest.FixtureRequest) -> Iterator[str]:
    before, room.LIFTS = room.LIFTS, frozenset({request.param})
    yield request.param
    room.LIFTS = before


def looks(rows: list[Row], epochs: int = 12) -> Iterator[tuple[Row, Row]]:
    """Every row beside each of its looks."""
    stock = Stock.of(rows)
    for epoch in range(epochs):
        for index, row in enumerate(rows):
            varied = augment(row, stock, epoch, index, 42, True)
            assert varied == augment(row, stock, epoch, index, 42, True)
            assert set(catalogue(varied.actions)) >= set(all_actions(varied))
            yield row, varied


@pytest.mark.parametrize("lift", ["refused"], indirect=True)
@pytest.mark.parametrize("rows", EXAMPLES)
def test_a_refused_row_lost_all_of_the_wanted_kind_and_does_not_act(lift: str, rows: list[Row]) -> None:
    refused = [(row, varied) for row, varied in looks(rows) if len(all_actions(varied)) < len(all_actions(row))]
    single = sum(len(used_actions(row)) == 1 for row in rows) * 12
    assert 0.04 < len(refused) / single < 0.17
    for row, varied in refused:
        kind = used_actions(row)[0].partition("-")[0]
        assert not any(name.startswith(f"{kind}-") for name in varied.actions)
        assert varied.actions
        assert varied.question == row.question
        assert "<&" not in varied.script
    assert len({varied.script for _, varied in refused}) >= 4


@pytest.mark.parametrize("lift", ["ordered"], indirect=True)
@pytest.mark.parametrize("rows", EXAMPLES)
def test_joined_rows_act_in_the_order_their_words_tell(lift: str, rows: list[Row]) -> None:
    by_question = {row.question: row for row in rows}
    seen = 0
    for row, varied in looks(rows):
        if varied.question == row.question:
            assert varied.script == row.script
            continue
        seen += 1
        other = next(o for q, o in by_question.items() if q in varied.question and q != row.question)
        assert all_actions(varied) == all_actions(row) + all_actions(other)
        assert varied.question.index(row.question) < varied.question.index(other.question) or any(
            word in varied.question for word in ("But before that", "不过在那之前")
        )
    assert seen > 12


@pytest.mark.parametrize("lift", ["near"], indirect=True)
def test_near_names_are_preferred(lift: str) -> None:
    rows = EXAMPLES[0]
    added: dict[bool, int] = {True: 0, False: 0}
    for row, varied in looks(rows):
        for name in set(varied.actions) - set(row.actions):
            added[any(name.split("-")[0] == used.split("-")[0] for used in used_actions(row))] += 1
    stock = Stock.of(rows)
    room.LIFTS = frozenset()
    plain = {True: 0, False: 0}
    for epoch in range(12):
        for index, row in enumerate(rows):
            for name in set(augment(row, stock, epoch, index, 42, True).actions) - set(row.actions):
                plain[any(name.split("-")[0] == used.split("-")[0] for used in used_actions(row))] += 1
    assert added[True] > 2 * plain[True]
    assert added[False] > 0


@pytest.mark.parametrize("lift", ["respelled"], indirect=True)
@pytest.mark.parametrize("rows", EXAMPLES)
def test_respelled_names_are_the_same_in_list_and_answer(lift: str, rows: list[Row]) -> None:
    stock, seen = set(Stock.of(rows).names), 0
    for row, varied in looks(rows):
        seen += bool(set(varied.actions) - stock)
        assert len(all_actions(varied)) == len(all_actions(row))
        letters = ["".join(sorted(filter(str.isalnum, name.lower()))) for name in all_actions(varied)]
        assert letters == ["".join(sorted(filter(str.isalnum, name.lower()))) for name in all_actions(row)]
    assert seen > 30


def test_earlier_answers_are_respelled_too() -> None:
    row = Row(
        ("cup-fill", "cup-wash"),
        "And now?",
        "<&cup-wash&>",
        history=(Turn("user", "cup-fill"), Turn("assistant", "<&cup-fill&>")),
    )
    new = room._respelled(row, random.Random(1))
    assert new.actions != row.actions
    assert new.script == f"<&{new.actions[1]}&>"
    assert [turn.text for turn in new.history] == ["cup-fill", f"<&{new.actions[0]}&>"]


@given(st.lists(st.text("ab-_ 茶杯", min_size=1, max_size=6).filter(lambda name: name == name.strip()), unique=True))
def test_a_spelling_never_makes_two_names_alike_or_one_impossible(names: list[str]) -> None:
    for seed in range(len(STYLES) * 2):
        catalogue(respelled(names, random.Random(seed)).values())


def test_refusals_are_the_rows_own_where_they_can_be_said_to_another_question() -> None:
    rows = [Row(("a-b",), f"Do thing {i}?", f"Sorry, not {word}.") for i, word in enumerate(("me", "now", "yet", "us"))]
    assert refusals(rows)["en"] == tuple(row.script for row in rows)
    assert refusals(rows)["zh"] == OURS["zh"]
    tied = [replace(row, question=f"Waffles {row.question}", script="Sorry, waffles are beyond me.") for row in rows]
    chat = [replace(row, script="Blue is my favourite.") for row in rows]
    assert refusals(tied + chat)["en"] == OURS["en"]


@pytest.mark.parametrize("lift", sorted(room.ALL_LIFTS), indirect=True)
def test_rows_that_do_not_act_are_only_spelled_anew(lift: str) -> None:
    for rows in EXAMPLES:
        for row, varied in looks(rows, 6):
            if not used_actions(row):
                assert (varied.question, varied.script) == (row.question, row.script)
                assert len(set(varied.actions)) <= len(row.actions)


def test_the_length_of_a_list_does_not_tell_whether_to_act() -> None:
    rows = make_rows(24)
    stock = Stock.of(rows)
    acting, others = ([row for row in rows if bool(used_actions(row)) is acts] for acts in (True, False))

    def grown(some: list[Row]) -> float:
        looks = [
            len(augment(row, stock, epoch, 0, 1, True).actions) / len(row.actions)
            for row in some
            for epoch in range(60)
        ]
        return sum(looks) / len(looks)

    assert grown(others) == 1
    assert 0.85 < grown(acting) < 1.2
