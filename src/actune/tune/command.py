"""The command `train`: rows and a base become a run."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from rich.console import Console

from actune.errors import UserError, either
from actune.tune import several
from actune.tune.options import LOGGERS, Settings, TrainOptions, names_of, overlay, read_config, settings_from, settle

if TYPE_CHECKING:
    from actune.base.source import Source
    from actune.data.rows import Row

WRITTEN_LAST = "adapter_model.safetensors"


def train(
    data: list[Path],
    *,
    base: str,
    out: Path,
    options: TrainOptions | None = None,
    config: Path | None = None,
    resume: bool = False,
    encoding: str | None = None,
    source: str = "hub",
    trust_remote_code: bool = False,
) -> int:
    """Tune a base on tables of dialogues with LoRA; the run folder holds an adapter that every PEFT tool loads.

    Args:
        data: Tables: .csv, .tsv, .xlsx, .jsonl.
        base: The base: a folder, a hub id or a bundled name.
        out: The run's folder, new or empty.
        options: What is set differently from the recipe.
        config: YAML file with the same options; the command line wins.
        resume: Go on from the newest checkpoint in the run's folder.
        encoding: Encoding of text tables, if it cannot be found out.
        source: Where hub ids are looked up: hub or modelscope.
        trust_remote_code: Run Python code that comes with the base.

    Returns:
        Exit code: 0, or 130 if the user interrupted the run.

    Raises:
        UserError: Data, options, base or folder cannot be used; or a guard stopped the run.
    """
    from actune.base.source import resolve
    from actune.data.load import load_rows
    from actune.tune.resume import check_unused

    layers = [options or TrainOptions(), *([read_config(config)] if config else [])]
    if several.is_main():
        check_unused(out, resume)
    rows = load_rows(data, encoding)
    found = resolve(base, source)
    return run_in(out, data, rows, found, layers, resume=resume, trust=trust_remote_code)


def run_in(
    out: Path,
    files: Sequence[Path],
    rows: Sequence[Row],
    base: Source,
    wanted: Settings | Sequence[TrainOptions],
    *,
    resume: bool,
    trust: bool,
    calibrate: bool = True,
) -> int:
    """Train in a folder, alone.

    Args:
        out: The run's folder; it is made.
        files: Where the rows are from.
        rows: The rows.
        base: The base.
        wanted: All settings, or layers of options of which the first that sets one wins.
        resume: Go on with what is in the folder.
        trust: Run the base's own code.
        calibrate: Find at the end when and how to act; what is only trained further, or compared, need not.

    Returns:
        Exit code: 0, or 130 if the user interrupted the run.

    Raises:
        UserError: As `train`.
    """
    from actune.tune.resume import clear_staging
    from actune.tune.run import MANIFEST, read_manifest

    main = several.is_main()
    out.mkdir(parents=True, exist_ok=True)
    with locked(out) if main else nullcontext():
        if main:
            clear_staging(out)
        previous = read_manifest(out) if resume and (out / MANIFEST).is_file() else None
        if isinstance(wanted, Settings):
            settings = settings_from(previous.options) if previous else wanted
        else:
            settings = (
                overlay(settings_from(previous.options), *wanted) if previous else _settled(base, wanted, rows, trust)
            )
        _check_loggers(settings)
        from actune.tune.memory import give_back_freed
        from actune.tune.prepare import prepare

        if settings.quantize:
            give_back_freed()
        prepared = prepare(files, rows, base, settings, previous, trust)
        return _run(prepared, out, new=previous is None, main=main, calibrate=calibrate)


def _settled(base: Source, wanted: Sequence[TrainOptions], rows: Sequence[Row], trust: bool) -> Settings:
    from actune.tune import practice

    return settle(*wanted, practice.defaults(base, settle(*wanted), rows, trust))


def locked(out: Path) -> AbstractContextManager[object]:
    """Keep other trainings out of a folder.

    Raises:
        UserError: One is there.
    """
    try:
        return FileLock(out / ".lock").acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"--out {out}",
            either("another training is writing there", "另一个训练正在写入"),
            either("one training a folder", "一个文件夹只供一个训练使用"),
            either("wait for it, or give another --out", "等它结束, 或换一个 --out"),
        ) from error


def _check_loggers(settings: Settings) -> None:
    missing = [name for name in names_of(settings.loggers) if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--loggers {settings.loggers}",
            either(f"not installed: {', '.join(missing)}", f"未安装: {', '.join(missing)}"),
            ", ".join(LOGGERS),
            f"python -m pip install {' '.join(missing)}",
        )


def _run(prepared: Any, out: Path, *, new: bool, main: bool, calibrate: bool) -> int:
    """Train, and write the run's end."""
    from actune.tune import finish, metrics, plan, practice, prepare, resume
    from actune.tune.fast.proof import settled
    from actune.tune.lora import add_lora

    console = Console(stderr=True, quiet=not main)
    settings = prepared.settings
    model = add_lora(prepared.model, settings)
    several.join(model.device)
    newest = next(reversed(resume.checkpoints(out)), None)
    start = prepared.manifest.practice
    if start and newest is None:
        practice.load_into(model, start)
    prepared = settled(prepared, model)
    size = prepared.plan
    plan.show(console, size, settings, prepared.train, f"{model.device} {prepared.manifest.probe['dtype']}")
    if settings.recipe != practice.SETTINGS.recipe:
        practice.tell(console, start, settings, prepared.manifest.base["id"])
    if main and new:
        prepare.write_start(out, prepared)
    if main:
        metrics.rewind(out, resume.step_of(newest) if newest else 0)
    if not new:
        at = newest.name if newest else either("the start: there is no checkpoint yet", "开头: 还没有检查点")
        console.print(either(f"going on from {at}", f"继续: {at}"), highlight=False)
    trainer, over = _train(prepared, model, size, newest, out, console)
    if not over:
        # A practice goes on by itself.
        more = ("", "") if settings.recipe == practice.SETTINGS.recipe else (" with --resume", "加 --resume")
        console.print(either(f"Interrupted. Go on: the same command{more[0]}", f"已中断。继续: 同一命令{more[1]}"))
        return 130
    finish.finish(prepared, trainer, size.steps, out, console, main, calibrate)
    console.print(either(f"done: {out}", f"完成: {out}"), markup=False, highlight=False)
    return 0


def _train(prepared: Any, model: Any, size: Any, newest: Path | None, out: Path, console: Console) -> tuple[Any, bool]:
    """Train from the newest checkpoint on; return the trainer, and whether the run is over (else interrupted)."""
    from actune.tune import metrics, resume
    from actune.tune.callbacks import Bar, FirstStep, Interrupt, RunFolder, StepSeed
    from actune.tune.exam import Exam
    from actune.tune.fast.proof import path_of, recomputed
    from actune.tune.memory import hold_freed
    from actune.tune.trainer import make_trainer

    def over(step: int, history: Any) -> bool:
        return step >= size.steps or metrics.ended(history, size.steps)

    if not prepared.settings.quantize:
        hold_freed()
    exam = Exam(model, prepared.valid) if prepared.valid else None
    bar = Bar(console, exam)
    fast, settings = path_of(prepared, model), replace(prepared.settings, checkpointing=recomputed(prepared))
    with Interrupt() as interrupt, fast or nullcontext():
        hooks = [StepSeed(), FirstStep(), RunFolder(out, exam), interrupt, bar]
        trainer = make_trainer(model, prepared.train, prepared.valid, settings, out, size.every, hooks, fast)
        trainer.exam, trainer.kept, bar.trainer = exam, prepared.kept, trainer
        # A run that was killed between its last checkpoint and its end has only the end to do.
        if newest and over(resume.step_of(newest), resume.history(newest)):
            return trainer, True
        try:
            trainer.train(resume_from_checkpoint=str(newest) if newest else None)
        except KeyboardInterrupt:
            interrupt.asked = True
        finally:
            bar.close()
    return trainer, over(trainer.state.global_step, trainer.state.log_history) or not interrupt.asked
