"""The notebook runs from top to bottom: on a tiny base in one epoch, and as it stands on the bundled one."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FILE = Path(__file__).parent.parent / "notebooks" / "actune.ipynb"


def executed(place: Path, seconds: int) -> str:
    """Run the notebook in a folder and return all that it printed."""
    notebook = nbformat.read(FILE, as_version=4)
    NotebookClient(notebook, timeout=seconds, resources={"metadata": {"path": str(place)}}).execute()
    return "".join(
        output.get("text", "") + output.get("data", {}).get("text/plain", "")
        for cell in notebook.cells
        for output in cell.get("outputs", ())
    )


def test_it_runs_on_a_tiny_base(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTUNE_NOTEBOOK_BASE", str(tiny_base))
    monkeypatch.setenv("ACTUNE_NOTEBOOK_EPOCHS", "1")
    printed = executed(tmp_path, 120)
    assert "60 rows" in printed
    assert "base + adapter" in printed  # the merge was compared
    assert (tmp_path / "merged/model.safetensors").is_file()
    assert json.loads((tmp_path / "eval/report.json").read_text(encoding="utf-8"))["rows"]


def test_what_is_committed_is_small_whole_and_of_no_machine() -> None:
    notebook = nbformat.read(FILE, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs for cell in cells[1:])
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    text = FILE.read_text(encoding="utf-8")
    assert len(text) < 60_000
    assert not [word for word in ("/tmp/", "/root", "/home/", "/work", "site-packages") if word in text]


def test_text_is_in_both_languages() -> None:
    notebook = nbformat.read(FILE, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and len(cell.source) > 60:
            assert any("\u4e00" <= char <= "\u9fff" for char in cell.source), cell.source


@pytest.mark.slow
def test_it_runs_as_it_stands(tmp_path: Path) -> None:
    executed(tmp_path, 1800)
