"""The loss log of a run and its picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from actune.tune.run import write_whole

METRICS, PICTURE = "metrics.jsonl", "loss.png"


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Read the lines of the log; one that a kill cut off is left out."""
    file = run / METRICS
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    result = []
    for line in lines:
        try:
            result.append(json.loads(line))
        except ValueError:
            continue
    return result


def rewind(run: Path, step: int) -> None:
    """Forget the lines after `step`: a resumed run writes them again."""
    kept = [line for line in read_metrics(run) if line["step"] <= step]
    write_whole(run / METRICS, "".join(json.dumps(line) + "\n" for line in kept))


def append(run: Path, line: dict[str, Any]) -> None:
    """Add a line."""
    with (run / METRICS).open("a", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(line) + "\n")


def lowest(run: Path) -> dict[str, Any]:
    """Return step and loss of the best validation so far; empty without any."""
    lines = [line for line in read_metrics(run) if "eval_loss" in line]
    best = min(lines, key=lambda line: line["eval_loss"], default=None)
    return {} if best is None else {"step": best["step"], "eval_loss": best["eval_loss"]}


def draw(run: Path) -> None:
    """Draw the losses into `loss.png`."""
    from matplotlib.figure import Figure

    lines = read_metrics(run)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for key, label, style in (("loss", "training", "-"), ("eval_loss", "validation", "o-")):
        points = [(line["step"], line[key]) for line in lines if key in line]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, markersize=4)
    axes.set(xlabel="step", ylabel="loss per token (nats)", ylim=(0, 1.1 * max(axes.dataLim.ymax, 1e-3)))
    axes.legend()
    # The format cannot be told from a temporary name.
    temporary = run / f".{PICTURE}.tmp"
    figure.savefig(temporary, format="png", dpi=120)
    temporary.replace(run / PICTURE)
