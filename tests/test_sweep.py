from __future__ import annotations

import csv
import importlib.util
from collections import Counter
from pathlib import Path

import pytest
import torch

from actune.data.augment import used_actions
from actune.errors import UserError
from actune.sweep import report
from actune.sweep.command import sweep
from actune.tune import command
from actune.tune.exam import Exam
from actune.tune.options import TrainOptions, read_config
from actune.tune.split import parts
from conftest import make_rows


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tables") / "rows.csv"
    with file.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["actions", "input", "output"])
        writer.writerows(["、".join(row.actions), row.question, row.script] for row in make_rows(9))
    return file


OPTIONS = TrainOptions(epochs=1, batch_size=8, seed=7)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, set[str], TrainOptions]]:
    """Every training that is begun: its folder, its questions, what it was asked."""
    torch.set_num_threads(1)
    seen: list[tuple[Path, set[str], TrainOptions]] = []
    whole = command.run_in

    def watch(out: Path, files: object, rows: list, base: object, wanted: list, **more: bool) -> int:
        seen.append((out, {row.question for row in rows}, wanted[0]))
        if (out.parent.parent.parent / "stop").exists() and out.name == "fold-1":
            raise KeyboardInterrupt
        return whole(out, files, rows, base, wanted, **more)

    monkeypatch.setattr(command, "run_in", watch)
    return seen


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The questions of every exam. These tables are too small for training to hold one."""
    seen: list[set[str]] = []
    whole = Exam.ask

    def watch(self: Exam) -> dict[str, float]:
        seen.append({row.question for row in self.rows})
        return whole(self)

    monkeypatch.setattr(Exam, "ask", watch)
    return seen


def test_folds_hold_every_row_once_and_every_kind() -> None:
    rows = make_rows(31)
    folds = parts(rows, 3, 1)
    assert sorted(place for fold in folds for place in fold) == list(range(31))
    for fold in folds:
        kinds = Counter(len(used_actions(rows[place])) for place in fold)
        assert sorted(kinds) == [0, 1, 2]
        assert max(kinds.values()) - min(kinds.values()) <= 1
    assert folds != parts(rows, 3, 2)


def test_a_sweep_goes_on_after_a_kill_and_gives_what_train_reads(
    trained: list, asked: list, table: Path, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "搜索 1"

    def go(trials: int, resume: bool, options: TrainOptions = OPTIONS) -> int:
        return sweep([table], base=str(tiny_base), out=out, trials=trials, folds=2, options=options, resume=resume)

    assert go(1, False) == 0
    assert [(path.parent.name, path.name) for path, _, _ in trained] == [("0", "fold-0"), ("0", "fold-1")]
    every = {row.question for row in make_rows(9)}
    assert asked == [every - questions for _, questions, _ in trained]
    assert asked[0] | asked[1] == every
    assert all(options.epochs == 1 and options.seed == 7 for _, _, options in trained)
    assert {path.name for path in (out / "trials/0/fold-0").iterdir()} == {"metrics.jsonl"}

    with pytest.raises(UserError, match="--resume"):
        go(2, False)
    with pytest.raises(UserError, match="options"):
        go(2, True, TrainOptions(epochs=2))

    trained.clear()
    (out / "stop").touch()
    assert go(2, True) == 130
    stopped = trained[-1][2]
    (out / "stop").unlink()
    with (out / "trials.log").open("a") as journal:
        journal.write('{"op_code":')  # as a kill leaves it
    trained.clear()
    assert go(2, True) == 0
    assert [path.parent.name for path, _, _ in trained] == ["2", "2"]
    assert all(options == stopped for _, _, options in trained)

    trained.clear()
    capsys.readouterr()
    assert go(2, True) == 0
    assert trained == []
    shown = capsys.readouterr().out
    assert "0" in shown
    assert "lr" in shown
    best = read_config(out / "best.yaml")
    assert (best.epochs, best.batch_size, best.seed) == (1, 8, 7)
    assert 5e-5 <= best.lr <= 1e-3
    assert best.rank in (4, 8, 16, 32)
    assert best.augment in ("on", "off")
    assert (out / "sweep.png").stat().st_size > 5000


def test_the_best_is_the_highest_and_failures_are_shown(tmp_path: Path) -> None:
    import optuna
    from rich.console import Console

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    lr = optuna.distributions.FloatDistribution(5e-5, 1e-3, log=True)
    for number, score in enumerate((0.25, 0.75, None, 0.5, 0.75)):
        study.enqueue_trial({"lr": 1e-4 * (number + 1)})
        trial = study.ask({"lr": lr})
        if score is None:
            trial.set_user_attr("error", "it diverged")
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            trial.set_user_attr("folds", [score - 0.1, score + 0.1])
            study.tell(trial, score)
    console = Console(record=True, width=120)
    report.report(study, tmp_path, {"rank": 8}, console)
    text = console.export_text()
    assert "*1" in text
    assert "failed" in text
    best = read_config(tmp_path / "best.yaml")
    assert best.lr == pytest.approx(2e-4)
    assert best.rank == 8


def test_a_base_that_cannot_train_ends_the_sweep_at_once(
    table: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    def refuse(out: Path, *_: object, **__: object) -> int:
        begun.append(out)
        raise UserError("here", "this", "that", "so")

    monkeypatch.setattr(command, "run_in", refuse)
    with pytest.raises(UserError, match="here"):
        sweep([table], base=str(tiny_base), out=tmp_path / "s", trials=3, folds=2, options=OPTIONS)
    assert len(begun) == 1


def test_wrong_use_is_told(table: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for trials, folds in ((0, 2), (1, 1), (1, 10)):
        with pytest.raises(UserError, match=r"--folds|--trials"):
            sweep([table], base=str(tiny_base), out=tmp_path / "s", trials=trials, folds=folds)
    every = TrainOptions(epochs=1, lr=1e-3, rank=4, augment="off")
    with pytest.raises(UserError, match="--augment"):
        sweep([table], base=str(tiny_base), out=tmp_path / "t", trials=1, folds=2, options=every)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"actune\[sweep\]"):
        sweep([table], base=str(tiny_base), out=tmp_path / "s", trials=1)
