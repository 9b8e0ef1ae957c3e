"""The command `sweep`: which options train best on these rows, by cross-validation."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rich.console import Console

from actune.errors import UserError, either
from actune.sweep.report import ERROR, FOLDS, done, report, short
from actune.sweep.trial import Sweep, scores_of
from actune.tune.options import TrainOptions, merged, read_config, settle

if TYPE_CHECKING:
    import optuna

    from actune.data.rows import Row

JOURNAL, TRIALS = "trials.log", "trials"
ASKED = "asked"


def sweep(
    data: list[Path],
    *,
    base: str,
    out: Path,
    trials: int,
    folds: int = 3,
    options: TrainOptions | None = None,
    config: Path | None = None,
    resume: bool = False,
    encoding: str | None = None,
    source: str = "hub",
    trust_remote_code: bool = False,
) -> int:
    """Look for the learning rate, rank, epochs and augmentation that act best; what you set yourself stays so.

    Args:
        data: Tables: .csv, .tsv, .xlsx, .jsonl.
        base: The base: a folder, a hub id or a bundled name.
        out: The sweep's folder, new or empty.
        trials: How many settings are tried in all.
        folds: Parts of the rows; each setting is trained once a part, without it, and scored on it.
        options: What is set differently from the recipe, in every trial.
        config: YAML file with the same options; the command line wins.
        resume: Go on with the sweep in the folder; finished trials count.
        encoding: Encoding of text tables, if it cannot be found out.
        source: Where hub ids are looked up: hub or modelscope.
        trust_remote_code: Run Python code that comes with the base.

    Returns:
        Exit code: 0, or 130 if the user interrupted the sweep.

    Raises:
        UserError: As `train`; or optuna is not installed, or the folder holds another sweep.
    """
    _need_optuna()
    from actune.base.source import resolve
    from actune.data.load import load_rows
    from actune.tune.command import locked
    from actune.tune.prepare import read
    from actune.tune.split import parts

    given = merged([options or TrainOptions(), *([read_config(config)] if config else [])])
    settings, searched = settle(TrainOptions(**given)), space(given)
    _check_unused(out, resume)
    found, loaded = resolve(base, source), load_rows(data, encoding)
    # Here, so that a row that cannot be used ends the sweep before its first training.
    rows = read(loaded, found.path, settings, None, trust_remote_code).kept[0]
    _check_numbers(trials, folds, rows)
    all_ = Sweep(out, data, rows, parts(rows, folds, settings.seed), found, given, trust_remote_code)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        study = _open(all_)
        _run_again(study)
        status = _go_on(study, all_, trials, searched, settings.seed)
        report(study, out, given, Console())
    if status:
        print(either("Interrupted. Go on: the same command with --resume", "已中断。继续: 同一命令加 --resume"))
    return status


def space(given: dict[str, Any]) -> dict[str, Any]:
    """Return what is searched: a distribution for each option that is not given.

    Raises:
        UserError: All are given.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    every = {
        "lr": FloatDistribution(5e-5, 1e-3, log=True),
        "rank": CategoricalDistribution((4, 8, 16, 32)),
        "epochs": IntDistribution(2, 10),
        "augment": CategoricalDistribution(("on", "off")),
    }
    # A practised adapter has one rank.
    fixed = {*given, "rank"} if given.get("practice") == "on" else {*given}
    left = {name: values for name, values in every.items() if name not in fixed}
    if not left:
        raise UserError(
            ", ".join(f"--{name}" for name in every),
            either("all are given", "全部已指定"),
            either("one to search for", "至少一项待搜索"),
            either("leave one out", "去掉其中一项"),
        )
    return left


def _need_optuna() -> None:
    if importlib.util.find_spec("optuna") is None:
        raise UserError(
            "actune sweep",
            either("optuna is not installed", "未安装 optuna"),
            either("the extra `sweep`", "扩展 sweep"),
            'pip install "actune[sweep]"',
        )


def _check_unused(out: Path, resume: bool) -> None:
    from actune.tune.resume import check_unused

    if not (out / JOURNAL).is_file():
        check_unused(out, False)
    elif not resume:
        raise UserError(
            f"--out {out}",
            either("a sweep is in it", "其中已有一次搜索"),
            either("a new or empty folder", "新的或空的文件夹"),
            either("go on with it: add --resume; or give another --out", "继续: 加 --resume; 或换一个 --out"),
        )


def _check_numbers(trials: int, folds: int, rows: Sequence[Row]) -> None:
    from actune.data.augment import used_actions

    bad = [f"--trials {trials}"] if trials < 1 else []
    bad += [f"--folds {folds}"] if not 2 <= folds <= len(rows) else []
    if bad:
        wanted = f"--trials >= 1, 2 <= --folds <= {len(rows)}"
        raise UserError(
            ", ".join(bad), either(f"{len(rows)} rows", f"{len(rows)} 行"), wanted, either("change it", "修改")
        )
    if not any(used_actions(row) for row in rows):
        raise UserError(
            either("the rows", "数据"),
            either("no answer acts", "没有任何回答带行动"),
            either("rows to score actions by", "可据以评分的行动"),
            either("add rows whose answers act", "添加带行动的回答"),
        )


def _open(all_: Sweep) -> optuna.Study:
    """Open the study in the sweep's folder, or make it.

    Raises:
        UserError: It is one of other rows, options or folds, or another base.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    from actune.tune.run import rows_hash

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = all_.out / JOURNAL
    if journal.is_file():
        # A kill while it was written: only whole lines can be read. Our lock holds, so optuna's is a dead sweep's.
        whole = journal.read_bytes()
        journal.write_bytes(whole[: whole.rfind(b"\n") + 1])
        journal.with_name(f"{JOURNAL}.lock").unlink(missing_ok=True)
    # The other lock is a symbolic link, which not every Windows user may make.
    backend = JournalFileBackend(str(journal), JournalFileOpenLock(str(journal)))
    study = optuna.create_study(
        storage=JournalStorage(backend), study_name="actune", direction="maximize", load_if_exists=True
    )
    asked = {"options": all_.given, "folds": len(all_.held), "rows": rows_hash(all_.rows), "base": all_.base.sha256}
    before = study.user_attrs.get(ASKED, asked)
    if apart := [name for name, value in asked.items() if before[name] != value]:
        raise UserError(
            f"--resume {all_.out}",
            either(f"other {', '.join(apart)} than at the start", f"与开始时不同: {', '.join(apart)}"),
            either("the same sweep", "同一次搜索"),
            either("give them as before, or another --out", "保持原样, 或换一个 --out"),
        )
    study.set_user_attr(ASKED, asked)
    return study


def _run_again(study: optuna.Study) -> None:
    """Mark what a killed sweep left running as failed, and queue its values."""
    from optuna.trial import TrialState

    for left in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(left.number, state=TrialState.FAIL)
        study.enqueue_trial(left.params)


def _go_on(study: optuna.Study, all_: Sweep, trials: int, searched: dict[str, Any], seed: int) -> int:
    """Run the trials that are missing; return 0, or 130 where the user stopped them."""
    from optuna.samplers import TPESampler
    from optuna.trial import TrialState

    while (count := len(done(study))) < trials:
        # Seeded anew by trial: a resumed sampler would draw its first values again.
        study.sampler = TPESampler(seed=seed + 1000 * len(study.get_trials(deepcopy=False)))
        trial = study.ask(searched)
        values = ", ".join(f"{name} {short(value)}" for name, value in trial.params.items())
        print(either(f"trial {count + 1} of {trials}: {values}", f"试验 {count + 1}/{trials}: {values}"), flush=True)
        try:
            scores = scores_of(all_, all_.out / TRIALS / str(trial.number), trial.params)
        except KeyboardInterrupt:
            return 130
        except UserError as error:
            # One that diverges is a result; where none has worked yet, it is the rows, the base or the machine.
            if not any(one.state == TrialState.COMPLETE for one in done(study)):
                study.tell(trial, state=TrialState.FAIL)
                raise
            print(error, flush=True)
            trial.set_user_attr(ERROR, str(error))
            study.tell(trial, state=TrialState.FAIL)
            continue
        trial.set_user_attr(FOLDS, scores)
        study.tell(trial, fmean(scores))
    return 0
