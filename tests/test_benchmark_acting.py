"""The ablations choose on one part of the rows and report on another, whatever is run first."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def acting() -> ModuleType:
    import sys

    spec = importlib.util.spec_from_file_location("acting", EXAMPLES.parent / "benchmarks" / "acting.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["acting"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 rows: two thirds of source A in English, a third of source B in Chinese."""
    rows = [
        {
            "id": f"row-{i}",
            "source": "B" if i % 3 == 0 else "A",
            "lang": "zh" if i % 3 == 0 else "en",
            "actions": ["a-b", "c-d"],
            "question": f"第 {i} 个" if i % 3 == 0 else f"Number {i}",
            "expected": ["a-b"] if i % 2 else [],
            "ordered": False,
        }
        for i in range(600)
    ]
    file = tmp_path_factory.mktemp("public") / "rows.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def test_parts_are_apart_whole_and_stratified(acting: ModuleType, public: Path) -> None:
    asked = acting.read(EXAMPLES / "actions_en.csv", public, None, "en").asked
    first, last = asked["choosing"], asked["reporting"]
    held = [row for row in first if row.source == "hold-out"]
    chosen, reported = {row.id for row in first if row.id}, {row.id for row in last}
    assert (len(held), len(chosen), len(reported)) == (12, 160, 240)  # 240 of 600 over both languages
    assert not chosen & reported
    assert all(row.lang == "en" for row in last)


def test_held_out_rows_are_not_trained_on_and_parts_never_move(acting: ModuleType, public: Path) -> None:
    data = acting.read(EXAMPLES / "actions_zh.csv", public, None, "zh")
    held = {row.question for row in data.asked["choosing"] if row.source == "hold-out"}
    assert not held & {row.question for row in data.train}
    assert len(held) + len(data.train) == 60
    assert data == acting.read(EXAMPLES / "actions_zh.csv", public, None, "zh")
    # Pinned: a part that moved would have been chosen on.
    assert sorted(row.id for row in data.asked["choosing"] if row.id)[:3] == ["row-0", "row-117", "row-123"]


def test_lifts_are_put_back_after_a_training(acting: ModuleType) -> None:
    lifts, told = acting.augment.LIFTS, acting.hold.TOLD
    with acting.lifted(acting.VARIANTS["practice +all"]):
        assert acting.augment.LIFTS == acting.augment.ALL_LIFTS
    with acting.lifted(acting.VARIANTS["practice -told"]):
        assert acting.hold.TOLD == 0
    assert (lifts, told) == (acting.augment.LIFTS, acting.hold.TOLD)
