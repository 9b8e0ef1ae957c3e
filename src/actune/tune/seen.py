"""What a run was trained on, kept so that an evaluation can tell seen rows and actions from new ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from actune.data.augment import used_actions
from actune.data.rows import Row
from actune.tune.run import write_whole

SEEN = "seen.json"


@dataclass(frozen=True)
class Seen:
    """What was trained on.

    Args:
        rows: Hashes of what was said to the model, from `said_hash`.
        actions: Names in the answers.
    """

    rows: frozenset[str]
    actions: frozenset[str]


def said_hash(row: Row) -> str:
    """Hash what is said in a row: question and history. Lists vary from epoch to epoch, so they do not count."""
    said = [*(turn.text.strip() for turn in row.history), row.question.strip()]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def write_seen(run: Path, rows: Iterable[Row], before: Seen | None = None) -> None:
    """Write down what is trained on; no text of the rows is kept but the actions' names.

    Args:
        run: The run's folder.
        rows: The rows that are trained on.
        before: What the adapter that the run starts from was trained on.
    """
    kept = list(rows)
    hashes = {said_hash(row) for row in kept} | (before.rows if before else set())
    names = {name for row in kept for name in used_actions(row)} | (before.actions if before else set())
    data = {"rows": sorted(hashes), "actions": sorted(names)}
    write_whole(run / SEEN, json.dumps(data, ensure_ascii=False) + "\n")


def read_seen(path: Path) -> Seen | None:
    """Read what a run, or the run a checkpoint is in, was trained on; None if it does not tell."""
    file = next((place / SEEN for place in (path, path.parent) if (place / SEEN).is_file()), None)
    if file is None:
        return None
    data = json.loads(file.read_text(encoding="utf-8"))
    return Seen(frozenset(data["rows"]), frozenset(data["actions"]))
