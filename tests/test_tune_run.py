from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from actune.data.load import load_rows
from actune.data.rows import Turn
from actune.errors import UserError
from actune.tune import metrics
from actune.tune.run import (
    MANIFEST,
    PARITY,
    VALID,
    Manifest,
    read_manifest,
    rows_hash,
    versions,
    write_kept_rows,
    write_manifest,
    write_rows,
)
from conftest import make_rows

KEYS = {"format", "base", "prompt", "recipe", "options", "data", "probe", "practice", "best", "acting", "merged"}


@pytest.fixture
def manifest() -> Manifest:
    base = {"id": "b", "path": "/b", "sha256": "0"}
    return Manifest(base, {"language": "zh"}, "small", {"lr": 5e-4}, {"sha256": "1"}, {}, versions=versions())


def test_the_manifest_has_its_keys_and_comes_back(tmp_path: Path, manifest: Manifest) -> None:
    write_manifest(tmp_path, manifest)
    stored = json.loads((tmp_path / MANIFEST).read_text(encoding="utf-8"))
    assert next(iter(stored)) == "format"
    assert set(stored) == KEYS | {"versions"}
    assert read_manifest(tmp_path) == manifest
    (tmp_path / "checkpoint-3").mkdir()
    assert read_manifest(tmp_path / "checkpoint-3") == manifest
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("text", ["", "{}", '{"format": 1, "nonsense": 2}', "[]"])
def test_a_broken_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text, encoding="utf-8")
    with pytest.raises(UserError):
        read_manifest(tmp_path)


def test_no_manifest_and_one_of_a_newer_actune_are_refused(tmp_path: Path, manifest: Manifest) -> None:
    with pytest.raises(UserError, match=MANIFEST):
        read_manifest(tmp_path)
    write_manifest(tmp_path, replace(manifest, format=2))
    with pytest.raises(UserError, match="newer"):
        read_manifest(tmp_path)


def test_kept_rows_can_be_read_as_a_table(tmp_path: Path) -> None:
    history = (Turn("user", "hi"), Turn("assistant", "<&杯子-倒水&>"))
    rows = [replace(row, system="You are a cat.", history=history) for row in make_rows(20)]
    write_rows(tmp_path / "rows.jsonl", rows)
    back = load_rows([tmp_path / "rows.jsonl"])
    assert rows_hash(back) == rows_hash(rows)
    assert (back[3].system, back[3].history) == ("You are a cat.", history)

    write_kept_rows(tmp_path, rows[:12], rows[12:])
    assert rows_hash(load_rows([tmp_path / VALID])) == rows_hash(rows[12:])
    assert rows_hash(load_rows([tmp_path / PARITY])) == rows_hash(rows[12:20])


def test_without_validation_rows_the_first_rows_serve_for_later_checks(tmp_path: Path) -> None:
    write_kept_rows(tmp_path, make_rows(9), [])
    assert not (tmp_path / VALID).exists()
    assert rows_hash(load_rows([tmp_path / PARITY])) == rows_hash(make_rows(9)[:8])


def test_the_hash_is_of_what_rows_say_not_where_they_stand() -> None:
    rows = make_rows(3)
    moved = [replace(row, file="other.xlsx", sheet="S", line=99) for row in rows]
    assert rows_hash(moved) == rows_hash(rows)
    assert rows_hash(rows[::-1]) != rows_hash(rows)
    assert rows_hash([rows[0], rows[1], replace(rows[2], script=rows[2].script + " ")]) != rows_hash(rows)


def test_a_rewound_log_has_no_doubled_and_no_broken_line(tmp_path: Path) -> None:
    metrics.rewind(tmp_path, 0)
    for step in (1, 2, 3):
        metrics.append(tmp_path, [{"step": step, "loss": 1.0 / step}])
    metrics.append(tmp_path, [{"step": 3, "eval_loss": 0.5}])
    with (tmp_path / metrics.METRICS).open("a", encoding="utf-8") as file:
        file.write('{"step": 4, "lo')  # killed here
    metrics.rewind(tmp_path, 2)
    assert [line["step"] for line in metrics.read_metrics(tmp_path)] == [1, 2]
    metrics.append(tmp_path, [{"step": 3, "eval_loss": 0.5, "eval_f1": 0.25}])
    metrics.draw(tmp_path)
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_best_step_has_the_highest_f1_then_the_lowest_loss_then_comes_first() -> None:
    def line(step: int, f1: float, loss: float) -> dict[str, float]:
        return {"step": step, "eval_f1": f1, "eval_loss": loss}

    history = [{"step": 1, "loss": 0.1}, line(1, 0.2, 1.0), line(2, 0.4, 3.0), line(3, 0.4, 2.0), line(4, 0.4, 2.0)]
    assert metrics.best(history) == line(3, 0.4, 2.0)
    # What is this little better is chance, and the loss decides.
    assert metrics.best([line(1, 0.4 + metrics.TIE / 2, 2.0), line(2, 0.4, 1.5), line(3, 0.1, 1.0)])["step"] == 2
    assert metrics.best([line(1, 0.4 + metrics.TIE * 2, 2.0), line(2, 0.4, 1.5)])["step"] == 1
    assert metrics.best(history[:1]) == {}
    # Where no row wants an action the loss decides alone.
    assert metrics.best([{"step": 1, "eval_loss": 0.7}, {"step": 2, "eval_loss": 0.6}])["step"] == 2


def test_a_run_ends_when_half_of_it_brought_nothing_better() -> None:
    history = [{"step": step, "eval_loss": abs(step - 3.0)} for step in range(1, 9)]
    assert [metrics.ended(history[:count], 8) for count in range(9)] == [False] * 7 + [True] * 2
    assert not metrics.ended([{"step": step, "loss": 1.0} for step in range(8)], 8)
