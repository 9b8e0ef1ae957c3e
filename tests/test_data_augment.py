from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actune.data.augment import augment, used_actions
from actune.data.rows import Row
from conftest import make_rows

POOL = ("做饭-炒冬瓜", "light-dim", "a b", "c/d", "e,f", "跳舞-华尔兹")
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
    assert set(used_actions(row)) <= set(varied.actions) <= {*row.actions, *POOL}
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


def test_an_empty_list_stays_empty() -> None:
    row = Row(actions=(), question="Who are you?", script="I am me.")
    assert augment(row, POOL, 0, 0, 1, True).actions == ()


def test_the_result_is_the_same_in_every_process() -> None:
    # Pinned: Python's own hash of a text differs from process to process and must play no part.
    assert augment(ROWS[0], (), 3, 0, 42, False).actions == ("杯子-倒水", "换衣服-裙子", "做饭-炒冬瓜", "切开-西瓜")
