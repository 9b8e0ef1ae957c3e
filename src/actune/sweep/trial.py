"""One trial of a sweep: options are trained on every fold and scored on what it left out."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actune.tune.options import TrainOptions

if TYPE_CHECKING:
    from actune.base.source import Source
    from actune.data.rows import Row


@dataclass(frozen=True)
class Sweep:
    """What every trial shares.

    Args:
        out: The sweep's folder.
        files: Where the rows are from.
        rows: The rows.
        held: Of each fold, the places of the rows that it does not train on.
        base: The base.
        given: Options that stay as they are.
        trust: Run the base's own code.
    """

    out: Path
    files: Sequence[Path]
    rows: Sequence[Row]
    held: Sequence[frozenset[int]]
    base: Source
    given: dict[str, Any]
    trust: bool


def scores_of(all_: Sweep, folder: Path, params: dict[str, Any]) -> list[float]:
    """Train and score every fold.

    Args:
        all_: The sweep.
        folder: The trial's; of each fold's run only the log is left in it.
        params: The options that this trial tries.

    Returns:
        The f1 of each fold in which an action was wanted or named.

    Raises:
        UserError: As `train`.
        KeyboardInterrupt: The user stopped a training.
    """
    from actune.tune.command import run_in

    options, scores = TrainOptions(**all_.given, **params), []
    for number, held in enumerate(all_.held):
        out = folder / f"fold-{number}"
        rows = [row for place, row in enumerate(all_.rows) if place not in held]
        if run_in(out, all_.files, rows, all_.base, [options], resume=False, trust=all_.trust, calibrate=False):
            raise KeyboardInterrupt
        score = _score(out, [all_.rows[place] for place in sorted(held)], all_, options)
        _strip(out)
        scores += [] if score is None else [score]
        gc.collect()  # model and trainer know each other, and the next model needs the room
    return scores


def _score(run: Path, rows: list[Row], all_: Sweep, options: TrainOptions) -> float | None:
    """Ask a fold's model the rows it was not trained on, all of them."""
    from actune.actor import load_actor
    from actune.script.score import measure
    from actune.tune.dataset import RowDataset
    from actune.tune.exam import MOST_ROWS, Exam

    actor = load_actor(
        run,
        base=str(all_.base.path),
        device=options.device or "auto",
        dtype=options.dtype or "auto",
        trust_remote_code=all_.trust,
    )
    fmt, outcomes = actor.format_for(rows[0].question), []
    for start in range(0, len(rows), MOST_ROWS):
        exam = Exam(actor.local.model, RowDataset(rows[start : start + MOST_ROWS], actor.tokenizer, fmt, None))
        exam.ask()
        outcomes += [answer.outcome for answer in exam.answers]
    return measure(outcomes)["f1"]


def _strip(run: Path) -> None:
    """Remove all of a run but its log: a sweep would fill the disk."""
    from actune.tune.metrics import METRICS

    for path in run.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != METRICS:
            path.unlink()
