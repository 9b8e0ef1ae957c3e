"""Which rows are scored, what they want, and which slices they belong to."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from actune.data.rows import Row
from actune.data.table import read_table
from actune.evaluate.cases import case_of, labels, lengthened, stratified
from actune.script.events import Act
from actune.tune.seen import read_seen, said_hash, write_seen
from conftest import make_rows

CHOICE = Row(("a", "b", "c"), "do it", "", expected=("c", "a"), file="x/rows.jsonl", line=3)


def test_a_script_wants_its_actions_in_order_and_a_choice_row_says_whether_order_counts() -> None:
    script = case_of(replace(CHOICE, script="x<&b&>y<&a&><&b&>", expected=None))
    assert (script.wanted, script.ordered) == (("b", "a", "b"), True)
    assert script.reference is not None
    assert sum(isinstance(event, Act) for event in script.reference) == 3
    assert [case_of(replace(CHOICE, ordered=ordered)).ordered for ordered in (True, False)] == [True, False]
    assert (case_of(CHOICE).wanted, case_of(CHOICE).reference) == (("c", "a"), None)


def test_source_language_and_id_are_the_files_own_or_found_out(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(
        '{"id": "n1", "source": "S", "lang": "zh", "actions": ["a"], "question": "ok", "expected": ["a"]}\n'
        '{"actions": ["a"], "question": "饿了", "expected": [], "ordered": true}\n',
        encoding="utf-8",
    )
    told, bare = map(case_of, read_table(file).rows)
    assert (told.id, told.source, told.language, told.ordered) == ("n1", "S", "zh", False)
    assert (bare.id, bare.source, bare.language, bare.ordered) == ("rows.jsonl:2", "rows.jsonl", "zh", True)


def test_a_limit_takes_of_each_source_its_share_and_the_same_rows_again() -> None:
    cases = [case_of(replace(CHOICE, id=str(n), source="ab"[n >= 30])) for n in range(40)]
    some = stratified(cases, 8, seed=1)
    assert Counter(case.source for case in some) == {"a": 6, "b": 2}
    assert [int(case.id) for case in some] == sorted(int(case.id) for case in some)
    assert some == stratified(cases, 8, seed=1) != stratified(cases, 8, seed=2)
    assert stratified(cases, 40, seed=1) == stratified(cases, None, seed=1) == cases
    # A small source is not lost among large ones, unless there are more sources than the limit.
    lone = [*cases, case_of(replace(CHOICE, source="c"))]
    assert Counter(case.source for case in stratified(lone, 8, seed=1)) == {"a": 5, "b": 2, "c": 1}
    assert len(stratified(lone, 2, seed=1)) == 2
    # Another source changes nothing in the choice among the first.
    alone = stratified(cases[:30], 6, seed=1)
    assert alone == [case for case in some if case.source == "a"]


def test_lists_are_filled_up_with_other_rows_names_of_the_language_unless_no_action_is_wanted() -> None:
    rows = [
        CHOICE,
        replace(CHOICE, actions=("d", "e"), expected=()),
        replace(CHOICE, actions=("灯",), question="开灯", expected=("灯",)),
        replace(CHOICE, actions=tuple("abcfgh"), expected=("h",)),
    ]
    cases = [case_of(row) for row in rows]
    filled = lengthened(cases, 5, seed=0)
    names = [case.row.actions for case in filled]
    assert set(names[0]) >= {"a", "b", "c"}
    assert len(set(names[0])) == len(names[0]) == 5
    assert set(names[0]) <= set("abcdefgh")
    assert names[1:] == [case.row.actions for case in cases[1:]]
    assert [case.wanted for case in filled] == [case.wanted for case in cases]
    assert filled == lengthened(cases, 5, seed=0)
    assert lengthened(cases, None, seed=0) == cases


def test_labels_name_the_slices() -> None:
    case = case_of(CHOICE)
    assert labels(case, None, None) == {"wanted": "2", "list": "1-4", "source": "rows.jsonl", "language": "en"}
    assert labels(case, {"a", "c"}, True) | {"actions": "seen", "row": "trained"} == labels(case, {"a", "c"}, True)
    assert labels(case, {"a"}, False)["actions"] == "unseen"
    assert "actions" not in labels(case_of(replace(CHOICE, expected=())), {"a"}, False)
    sizes = {
        n: labels(case_of(replace(CHOICE, actions=tuple(map(str, range(n))))), None, None)["list"]
        for n in (0, 1, 4, 5, 8, 9, 128, 129)
    }
    assert sizes == {0: "0", 1: "1-4", 4: "1-4", 5: "5-8", 8: "5-8", 9: "9-16", 128: "65-128", 129: "129+"}
    assert labels(case_of(replace(CHOICE, expected=("a",) * 5)), None, None)["wanted"] == "3+"


def test_a_run_knows_its_rows_again_whatever_list_they_come_with(tmp_path: Path) -> None:
    rows = make_rows(4)
    write_seen(tmp_path, rows[:3])
    seen = read_seen(tmp_path / "checkpoint-1")
    assert seen is not None
    again = [replace(row, actions=row.actions[::-1], script="", file="other") for row in rows]
    assert [said_hash(row) in seen.rows for row in again] == [True, True, True, False]
    assert seen.actions == {
        event.name for row in rows[:3] for event in case_of(row).reference or () if isinstance(event, Act)
    }
    assert read_seen(tmp_path / "elsewhere" / "run") is None


def test_a_run_that_starts_from_another_has_seen_its_rows_too(tmp_path: Path) -> None:
    rows = make_rows(6)
    (tmp_path / "practice").mkdir()
    write_seen(tmp_path / "practice", rows[:3])
    write_seen(tmp_path, rows[3:5], read_seen(tmp_path / "practice"))
    seen = read_seen(tmp_path)
    assert seen is not None
    assert [said_hash(row) in seen.rows for row in rows] == [True] * 5 + [False]
