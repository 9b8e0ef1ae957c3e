"""The run folder: its manifest, and the rows that are kept in it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from actune.data.rows import Row
from actune.errors import UserError, either

MANIFEST = "actune.json"
FORMAT = 1
PARITY, VALID = "parity.jsonl", "valid.jsonl"
PARITY_ROWS = 8
PACKAGES = ("actune", "torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors")


@dataclass(frozen=True)
class Manifest:
    """What a run must remember.

    Args:
        base: ``id``, ``path`` and ``sha256`` of the base.
        prompt: `PromptFormat.to_dict()`.
        recipe: Name of the recipe.
        options: `Settings.to_dict()`.
        data: ``files``, ``sha256`` of the rows, and how many are trained and validated.
        probe: What was found out at the start and is obeyed on resume: ``device``, ``dtype``, ``threads``, ``cpu``,
            ``path`` (`fast.proof.Choice.to_dict()`).
        best: Which step the adapter is from and why; empty until the run has ended.
        practice: ``folder``, ``rows`` and ``sha256`` of the adapter that the run started from; empty if it was fresh.
        acting: `Acting.to_dict()`, found on the validation rows; empty: nothing to change, or not looked for.
        versions: Of the packages that decide the result.
        merged: How the adapter was merged into the weights of this folder, and how equal that is; empty for a run.
    """

    base: dict[str, Any]
    prompt: dict[str, Any]
    recipe: str
    options: dict[str, Any]
    data: dict[str, Any]
    probe: dict[str, Any]
    best: dict[str, Any] = field(default_factory=dict)
    practice: dict[str, Any] = field(default_factory=dict)
    acting: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    merged: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of a run; `path` may also be a checkpoint in it.

    Raises:
        UserError: There is none, or it cannot be read.
    """
    wanted = either("the folder of a run", "训练结果的文件夹")
    file = next((place / MANIFEST for place in (path, path.parent) if (place / MANIFEST).is_file()), None)
    if file is None:
        got = either(f"no {MANIFEST} in it", f"其中没有 {MANIFEST}")
        raise UserError(str(path), got, wanted, either("check the path", "检查路径"))
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        if data["format"] > FORMAT:
            got = either(f"format {data['format']}, of a newer actune", f"格式 {data['format']}, 来自更新的 actune")
            raise UserError(str(file), got, f"format <= {FORMAT}", either("update actune", "升级 actune"))
        return Manifest(**data)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(str(file), str(error), wanted, either("train again", "重新训练")) from error


def write_manifest(run: Path, manifest: Manifest) -> None:
    """Write the manifest so that there is always a whole one."""
    data = asdict(manifest)
    data = {"format": data.pop("format"), **data}
    write_whole(run / MANIFEST, json.dumps(data, ensure_ascii=False, indent=2) + "\n")


def write_whole(file: Path, text: str) -> None:
    """Write a text file under a temporary name, then rename it."""
    temporary = file.with_name(f".{file.name}.tmp")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    temporary.replace(file)


def versions() -> dict[str, str]:
    """Versions of Python and the packages that decide the result."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}


def row_record(row: Row) -> dict[str, Any]:
    """Give a row the form of a JSONL line, which `data.table` reads."""
    record: dict[str, Any] = {"actions": list(row.actions), "question": row.question, "answer": row.script}
    if row.system:
        record["system"] = row.system
    if row.history:
        record["history"] = [asdict(turn) for turn in row.history]
    return record


def write_rows(file: Path, rows: Iterable[Row]) -> None:
    """Write rows as JSONL."""
    write_whole(file, "".join(json.dumps(row_record(row), ensure_ascii=False) + "\n" for row in rows))


def rows_hash(rows: Iterable[Row]) -> str:
    """SHA-256 of what the rows say, whatever file, format or encoding they come from."""
    text = json.dumps([row_record(row) for row in rows], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def write_kept_rows(run: Path, train: Sequence[Row], valid: Sequence[Row]) -> None:
    """Write the validation rows and the rows for later checks."""
    if valid:
        write_rows(run / VALID, valid)
    write_rows(run / PARITY, (valid or train)[:PARITY_ROWS])
