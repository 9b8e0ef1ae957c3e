"""The log of a run, its picture, and what the log says about which step is the best."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from actune.tune.run import write_whole

METRICS, SAMPLES, PICTURE = "metrics.jsonl", "samples.jsonl", "loss.png"
# Share of a run without a better validation after which it ends: the learning rate falls to 0 over a run, so what is
# no better after half of it will not become so.
PATIENCE = 0.5
# Scores of some ten answered rows differ by so much by chance.
TIE = 0.05


def read_metrics(run: Path, name: str = METRICS) -> list[dict[str, Any]]:
    """Read the lines of a log; one that a kill cut off is left out."""
    file = run / name
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
    for name in (METRICS, SAMPLES):
        kept = [line for line in read_metrics(run, name) if line["step"] <= step]
        if kept or name == METRICS:
            write_whole(run / name, "".join(_written(line) for line in kept))
        else:
            (run / name).unlink(missing_ok=True)


def append(run: Path, lines: Iterable[dict[str, Any]], name: str = METRICS) -> None:
    """Add lines to a log."""
    with (run / name).open("a", encoding="utf-8", newline="\n") as file:
        file.writelines(map(_written, lines))


def _written(line: dict[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"


def best(history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the best validation so far: the highest f1 (within `TIE`), then the lowest loss, then the earliest.

    Args:
        history: Lines of the log; those without ``eval_loss`` do not count. Where no validation row wants an action
            there is no f1, and the loss decides.

    Returns:
        The line; empty without any.
    """
    lines = [line for line in history if "eval_loss" in line]
    highest = max((line.get("eval_f1", 0.0) for line in lines), default=0.0)
    level = [line for line in lines if line.get("eval_f1", 0.0) >= highest - TIE]
    return min(level, key=lambda line: line["eval_loss"], default={})


def ended(history: Sequence[dict[str, Any]], steps: int) -> bool:
    """Tell whether a run of so many steps has gone on for `PATIENCE` of them without a better validation."""
    at = max((line["step"] for line in history if "eval_loss" in line), default=0)
    return bool(at - best(history).get("step", at) >= PATIENCE * steps)


def draw(run: Path) -> None:
    """Draw the losses, and the f1 of the validation rows, into `loss.png`."""
    from matplotlib.figure import Figure

    lines = read_metrics(run)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for key, label, style in (("loss", "training", "-"), ("eval_loss", "validation", "o-")):
        points = [(line["step"], line[key]) for line in lines if key in line]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, markersize=4)
    axes.set(xlabel="step", ylabel="loss per token (nats)", ylim=(0, 1.1 * max(axes.dataLim.ymax, 1e-3)))
    # Above the lines: inside it would hide some.
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    if points := [(line["step"], line["eval_f1"]) for line in lines if "eval_f1" in line]:
        right = axes.twinx()
        right.plot(*zip(*points, strict=True), "s--", color="tab:green", label="validation f1", markersize=4)
        right.set(ylabel="f1", ylim=(0, 1))
        right.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
    # The format cannot be told from a temporary name.
    temporary = run / f".{PICTURE}.tmp"
    figure.savefig(temporary, format="png", dpi=120)
    temporary.replace(run / PICTURE)
