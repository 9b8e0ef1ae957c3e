"""What a sweep shows at its end: a table, a picture, and the best options for `train --config`."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.table import Table

from actune.errors import either
from actune.tune.run import write_whole

if TYPE_CHECKING:
    import optuna

PICTURE, BEST = "sweep.png", "best.yaml"
ERROR, FOLDS = "error", "folds"


def done(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Return the trials that came to an end, in order: a score, or a training that could not be done."""
    from optuna.trial import TrialState

    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
    return [trial for trial in ended if trial.state == TrialState.COMPLETE or ERROR in trial.user_attrs]


def report(study: optuna.Study, out: Path, given: dict[str, Any], console: Console) -> None:
    """Print the trials; write `sweep.png` and `best.yaml` into the sweep's folder if one has a score.

    Args:
        study: The sweep's.
        out: The sweep's folder.
        given: Options that stayed as they were.
        console: Where the table goes.
    """
    from optuna.trial import TrialState

    trials = done(study)
    scored = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not scored:
        return
    # The first of equals: later ones bring nothing.
    best = max(scored, key=lambda trial: (trial.value or 0.0, -trial.number))
    _show(trials, best, console)
    _draw(scored, out)
    head = f"# actune sweep: trial {best.number}, f1 {best.value:.3f}\n"
    write_whole(out / BEST, head + yaml.safe_dump({**given, **best.params}, allow_unicode=True))
    line = either(f"best: actune train --config {out / BEST}", f"最好: actune train --config {out / BEST}")
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _show(trials: list[optuna.trial.FrozenTrial], best: optuna.trial.FrozenTrial, console: Console) -> None:
    names = list(best.params)
    table = Table(caption=either("*: the best; folds: f1 of each", "*: 最好; 各折: 每折的 f1"))
    heads = [either("trial", "试验"), *names, "f1", either("folds", "各折"), either("seconds", "秒")]
    for name in heads:
        table.add_column(name, justify="right")
    for trial in trials:
        score = either("failed", "失败") if trial.value is None else f"{trial.value:.3f}"
        mark = "*" if trial is best else ""
        folds = " ".join(f"{value:.2f}" for value in trial.user_attrs.get(FOLDS, ()))
        seconds = f"{trial.duration.total_seconds():.0f}" if trial.duration else ""
        values = [short(trial.params[name]) for name in names]
        table.add_row(f"{mark}{trial.number}", *values, score, folds, seconds)
    console.print(table)


def _draw(scored: list[optuna.trial.FrozenTrial], out: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    numbers, scores = [trial.number for trial in scored], [trial.value or 0.0 for trial in scored]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.step(numbers, list(accumulate(scores, max)), where="post", color="tab:green", label="best so far")
    axes.plot(numbers, scores, "o", label="mean of the folds")
    folds = [(trial.number, score) for trial in scored for score in trial.user_attrs[FOLDS]]
    axes.plot(*zip(*folds, strict=True), ".", color="tab:gray", alpha=0.6, label="folds", zorder=1)
    axes.set(xlabel="trial", ylabel="f1 of rows that were not trained on", ylim=(-0.02, 1.02))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    # The format cannot be told from a temporary name.
    temporary = out / f".{PICTURE}.tmp"
    figure.savefig(temporary, format="png", dpi=120)
    temporary.replace(out / PICTURE)


def short(value: Any) -> str:
    """Write an option's value as people read it."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
