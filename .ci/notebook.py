"""Run notebooks/actune.ipynb on the bundled base and keep its outputs, small: `python .ci/notebook.py` (minutes).

What stays is plain text: no HTML, no colours, no warnings (they hold paths of the machine).
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FILE = Path(__file__).parent.parent / "notebooks" / "actune.ipynb"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def cleaned(output: Any) -> Any | None:
    """Give an output its small form, or None if it is no word of ours."""
    text = output.text if output.output_type == "stream" else COLOUR.sub("", output.data.get("text/plain", ""))
    if output.get("name") == "stderr" or "Warning: " in text or not text.strip():
        return None
    # As one kind: a table that a terminal would show is text, too.
    return nbformat.v4.new_output("stream", name="stdout", text=text if text.endswith("\n") else text + "\n")


def clean(notebook: Any) -> None:
    """Shrink all outputs and forget when they were made."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            kept = [small for output in cell.outputs if (small := cleaned(output))]
            text = "".join(output.text for output in kept)
            cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)] if text else []


def main() -> None:
    """Execute it in a folder of its own, then write it back."""
    notebook = nbformat.read(FILE, as_version=4)
    with tempfile.TemporaryDirectory() as place:
        NotebookClient(notebook, timeout=3600, resources={"metadata": {"path": place}}).execute()
    clean(notebook)
    nbformat.write(notebook, FILE)


if __name__ == "__main__":
    main()
