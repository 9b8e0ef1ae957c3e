"""The end of a run: the best checkpoint's adapter goes on top, checked, and the run says which it is and why."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from peft import set_peft_model_state_dict
from rich.console import Console
from safetensors.torch import load_file

from actune.errors import either
from actune.tune import guards, metrics, resume
from actune.tune.command import WRITTEN_LAST
from actune.tune.dataset import collate
from actune.tune.prepare import Prepared
from actune.tune.run import write_manifest
from actune.tune.trainer import RowTrainer

CONFIG = "adapter_config.json"


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


def finish(prepared: Prepared, trainer: RowTrainer, steps: int, out: Path, main: bool) -> dict[str, Any]:
    """Put the best adapter on top of the run and write down where it is from.

    Args:
        prepared: What was trained on.
        trainer: Of the run; its model comes back with the best adapter.
        steps: Steps that were planned.
        out: The run's folder.
        main: Whether this process writes; the others only take part in measuring.

    Returns:
        What the manifest holds as ``best``.

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
    if main:
        _place(folder, out)
        metrics.draw(out)
        write_manifest(out, replace(prepared.manifest, best=best))
    return best


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


def tell(console: Console, best: dict[str, Any], valid: int) -> None:
    """Print which step's adapter the run keeps, and why."""
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
