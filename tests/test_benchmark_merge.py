"""The table of merges is made once: what is done is told again, not done again."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "merge.py"

pytest.importorskip("bitsandbytes")


@pytest.fixture
def merges():
    spec = importlib.util.spec_from_file_location("merges", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_table_is_made_and_gone_on_with(
    merges, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    out = tmp_path / "out"
    words = ["merge.py", "--base", str(tiny_base), "--out", str(out), "--epochs", "1", "--limit", "8"]
    monkeypatch.setattr(sys, "argv", [*words, "--kinds", "nf4"])
    merges.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| nf4")]
    assert [row.split(" | ")[1] for row in rows] == ["unmerged", "onto trained", "onto original"]
    trained, original = (float(row.split(" | ")[5]) for row in rows[1:])
    assert trained >= original
    # Lost by an interruption: only this is made again.
    results = out / "results.jsonl"
    lines = results.read_text(encoding="utf-8").splitlines(keepends=True)
    results.write_text("".join(lines[:2]), encoding="utf-8")
    monkeypatch.setattr(merges, "train", lambda *given, **more: pytest.fail("trained again"))
    monkeypatch.setattr(merges, "merge", lambda *given, **more: pytest.fail("merged again"))
    merges.main()
    assert results.read_text(encoding="utf-8").splitlines(keepends=True) == lines
