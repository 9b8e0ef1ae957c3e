"""The end of a run: the best checkpoint's adapter goes on top, checked, and the run says which it is and why."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from peft import set_peft_model_state_dict
from rich.console import Console
from safetensors.torch import load_file

from actune.base.load import pick_dtype
from actune.base.quantize import is_quantized
from actune.data.rows import Row
from actune.errors import either
from actune.script.acting import Acting
from actune.tune import calibrate as calibration
from actune.tune import corpus, guards, memory, metrics, resume, several
from actune.tune.calibrate import LEAST_ROWS, MOST_ROWS, WRITTEN, spread
from actune.tune.command import WRITTEN_LAST
from actune.tune.dataset import collate
from actune.tune.exam import engine_for
from actune.tune.prepare import Prepared
from actune.tune.run import write_manifest
from actune.tune.trainer import RowTrainer

CONFIG = "adapter_config.json"
NEUTRAL = asdict(Acting())


def choose(history: Sequence[dict[str, Any]], last: int, steps: int) -> dict[str, Any]:
    """Say which step's adapter a run keeps, and why.

    Args:
        history: Lines of the log up to the last step.
        last: The last step that was trained.
        steps: Steps that were planned.

    Returns:
        What the manifest holds as ``best``: ``step``, ``of``, ``by``, the scores there, and ``ended`` where the run
        ended early.
    """
    line = metrics.best(history)
    if not line:
        return {"step": last, "of": steps, "by": "last step"}
    scores = {key: value for key, value in line.items() if key.startswith("eval_")}
    by = "eval_f1, then eval_loss" if "eval_f1" in line else "eval_loss"
    early = {"ended": last} if last < steps else {}
    return {"step": line["step"], "of": steps, "by": by, **scores, **early}


def finish(
    prepared: Prepared, trainer: RowTrainer, steps: int, out: Path, console: Console, main: bool, calibrate: bool
) -> None:
    """Put the best adapter on top of the run, and say and write down where it is from and how it decides to act.

    Args:
        prepared: What was trained on.
        trainer: Of the run; its model comes back with the best adapter.
        steps: Steps that were planned.
        out: The run's folder.
        console: Where it is said.
        main: Whether this process writes; the others only take part in measuring.
        calibrate: Find when and how to act.

    Raises:
        UserError: What was saved is not what was trained.
    """
    newest = resume.checkpoints(out)[-1]
    # The trainer is at step 0 where nothing was left to train.
    if trainer.state.global_step == resume.step_of(newest):
        guards.check_saved(trainer.model, newest, collate([(prepared.valid or prepared.train)[0]]))
    best = choose(resume.history(newest), resume.step_of(newest), steps)
    folder = out / f"{resume.CHECKPOINT}{best['step']}"
    set_peft_model_state_dict(trainer.model, load_file(folder / WRITTEN_LAST))
    if "eval_loss" in best:
        guards.check_best(trainer.validation_loss(), best["eval_loss"], folder, trainer.model.dtype)
    # A model that is shared out computes only where all take part; of whole ones, the main process's is enough.
    asks = calibrate and (main or several.sharded())
    acting, found = _calibrated(prepared, trainer) if asks else (Acting(), {})
    if main:
        tell(console, best, len(prepared.valid or ()), acting, found)
        _place(folder, out)
        metrics.draw(out)
        write_manifest(out, replace(prepared.manifest, best=best, acting=acting.to_dict()))


def _calibrated(prepared: Prepared, trainer: RowTrainer) -> tuple[Acting, dict[str, Any]]:
    """Find when and how to act on rows that nothing was trained on."""
    fmt, model = prepared.train.fmt, trainer.model
    rows, each = _measured_on(prepared)
    if len(rows) < LEAST_ROWS:  # The model is not asked: it need not be brought to fp32.
        return calibration.START, calibration.too_few(len(rows))
    # As in use: in its dtype, folded into the weights, unless that would round the adapter away.
    folded = not is_quantized(model)
    if folded and pick_dtype(model.device) == torch.float32:
        folded = memory.widened(model)
    engine = engine_for(model.eval(), prepared.train)
    if folded:
        model.merge_adapter()
    try:
        return calibration.calibrate(engine, fmt, rows, each)
    finally:
        if folded:
            model.unmerge_adapter()


def _measured_on(prepared: Prepared) -> tuple[list[Row], int]:
    """Gather rows that nothing was trained on, and say how many answers each of them is worth."""
    start, language = prepared.manifest.practice, prepared.train.fmt.language
    own = list(prepared.valid.rows) if prepared.valid else []
    missing = max(0, MOST_ROWS - len(own))
    if start:
        return [*own, *corpus.unseen(start, language)[:missing]], WRITTEN
    # Few rows and no practice: without ours such a run acts where nothing is wanted.
    if corpus.joins(prepared.settings) and len(own) < LEAST_ROWS:
        return [*own, *spread(corpus.unseen(start, language), missing)], 1
    return own, WRITTEN


def _place(folder: Path, out: Path) -> None:
    """Copy a checkpoint's adapter to the top of the run, each file as a whole."""
    staged = out / resume.STAGING / "final"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    # The weights come last: a run with weights on top has all of it.
    for name in (CONFIG, WRITTEN_LAST):
        shutil.copy(folder / name, staged / name)
        (staged / name).replace(out / name)
    shutil.rmtree(out / resume.STAGING)


def tell(console: Console, best: dict[str, Any], valid: int, acting: Acting, found: dict[str, Any]) -> None:
    """Print which step's adapter the run keeps, and why, and what was found about when to act."""
    step, steps = best["step"], best["of"]
    if best["by"] == "last step":
        line = either(
            f"kept: the last step, {step}: there are no validation rows to choose by",
            f"保留: 最后一步 {step}: 没有验证行可供选择",
        )
    else:
        score = f"f1 {best['eval_f1']:.2f}, " if "eval_f1" in best else ""
        line = either(
            f"kept: step {step} of {steps}, the best on {valid} validation rows ({score}loss {best['eval_loss']:.3f})",
            f"保留: 第 {step} 步 (共 {steps}), 在 {valid} 行验证数据上最好 ({score}损失 {best['eval_loss']:.3f})",
        )
    if "ended" in best:
        line += either(
            f"; ended at step {best['ended']}, for it did not become better",
            f"; 因不再变好, 在第 {best['ended']} 步结束",
        )
    console.print(line, markup=False, highlight=False, soft_wrap=True)
    if acting.neutral:
        return
    numbers = ", ".join(f"{key} {value}" for key, value in acting.to_dict().items() if value != NEUTRAL[key])
    if found["note"]:
        line = f"acting: {numbers}; {found['note']}"
    else:
        score = " -> ".join(_brief(found[name]) for name in ("start", "chosen"))
        line = either(
            f"acting: {numbers} (on {found['rows']} rows that were not trained on: {score})",
            f"行动校准: {numbers} (在未训练的 {found['rows']} 行上: {score})",
        )
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _brief(scores: dict[str, float | None]) -> str:
    shown = {name: scores[name] for name in ("f1", "none_right")}
    return " ".join(f"{name} {value:.2f}" for name, value in shown.items() if value is not None)
