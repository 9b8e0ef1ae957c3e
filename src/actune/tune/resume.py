"""Going on: which checkpoint is whole, and whether data, options and base are still the same."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actune.errors import UserError, either
from actune.tune.run import MANIFEST, Manifest

STAGING = ".saving"
CHECKPOINT = "checkpoint-"
KEPT = 2


def checkpoints(run: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first. Only whole ones have such a name."""
    found = [path for path in run.glob(f"{CHECKPOINT}*") if re.fullmatch(rf"{CHECKPOINT}\d+", path.name)]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was written."""
    return int(checkpoint.name.removeprefix(CHECKPOINT))


def history(checkpoint: Path | None) -> list[dict[str, Any]]:
    """Return the lines of the log up to a checkpoint, as the checkpoint itself has them; none without one."""
    if checkpoint is None:
        return []
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return list(state["log_history"])


def publish(run: Path, step: int, keep: int | None) -> None:
    """Move a finished checkpoint from the staging folder into the run, then remove older ones.

    Args:
        run: The run's folder.
        step: Of the new checkpoint.
        keep: Step of a checkpoint that must stay besides the newest ones.
    """
    name = f"{CHECKPOINT}{step}"
    staged, final = run / STAGING / name, run / name
    if final.exists():
        # It was written by the run that this one resumes; both are the same to the bit.
        shutil.rmtree(staged)
    else:
        for file in staged.iterdir():
            _flush(file)
        staged.rename(final)
    for old in checkpoints(run)[:-KEPT]:
        if step_of(old) != keep:
            remove(old)


def _flush(file: Path) -> None:
    """Bring a file to the disk, so that a power cut after the rename finds it whole."""
    with file.open("rb+") as handle:
        os.fsync(handle.fileno())


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint so that none is ever found half removed."""
    doomed = checkpoint.parent / STAGING / f"old-{checkpoint.name}"
    doomed.parent.mkdir(exist_ok=True)
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)


def clear_staging(run: Path) -> None:
    """Remove what a killed run left unfinished."""
    shutil.rmtree(run / STAGING, ignore_errors=True)


def check_unused(run: Path, resume: bool) -> None:
    """Refuse a folder that holds something, unless it is a run that shall go on.

    Raises:
        UserError: It does.
    """
    if not run.exists() or (resume and (run / MANIFEST).is_file()):
        return
    # Our own unfinished files have such names; a run killed in its first second has no others.
    if not run.is_dir() or any(not path.name.startswith(".") for path in run.iterdir()):
        is_run = (run / MANIFEST).is_file()
        raise UserError(
            f"--out {run}",
            either("a run is in it", "其中已有训练结果") if is_run else either("it is not empty", "它不是空的"),
            either("a new or empty folder", "新的或空的文件夹"),
            either(
                "go on with it: add --resume; or start anew: give another --out" if is_run else "give another --out",
                "继续: 加 --resume; 重新开始: 换一个 --out" if is_run else "换一个 --out",
            ),
        )


def check_same(manifest: Manifest, options: Mapping[str, Any], rows: str, base: str) -> None:
    """Check that a resumed run would be the same run.

    Args:
        manifest: Of the run.
        options: All settings now.
        rows: Hash of the rows now.
        base: Hash of the base now.

    Raises:
        UserError: Anything differs; all that differs is named.
    """
    problems = [
        f"{key}: {value!r} -> {options[key]!r}"
        for key, value in manifest.options.items()
        if key in options and options[key] != value
    ]
    if rows != manifest.data["sha256"]:
        problems.append(either("the rows have changed", "数据行已改变"))
    if base != manifest.base["sha256"]:
        problems.append(either(f"not the base {manifest.base['id']}", f"不是基座 {manifest.base['id']}"))
    if problems:
        raise UserError(
            "--resume",
            "; ".join(problems),
            either("the data, options and base the run began with", "与开始时相同的数据, 选项和基座"),
            either("put them back, or start anew with another --out", "恢复原样, 或换一个 --out 重新开始"),
        )


def check_machine(manifest: Manifest, cpu: str) -> None:
    """Check that a run goes on where its numbers come out the same.

    Args:
        manifest: Of the run; one of an earlier version does not say where it began.
        cpu: Kind of this machine's CPU.

    Raises:
        UserError: It began on the CPU of another kind: other kernels round otherwise.
    """
    began = manifest.probe.get("cpu", cpu)
    if manifest.probe["device"] == "cpu" and began != cpu:
        raise UserError(
            "--resume",
            either(f"this CPU: {cpu}", f"本机 CPU: {cpu}"),
            either(f"the kind of CPU the run began on: {began}", f"训练开始时的 CPU 类型: {began}"),
            either("go on there, or start anew with another --out", "回到原机器继续, 或换一个 --out 重新开始"),
        )
