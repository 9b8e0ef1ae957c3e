"""kill -9 at any moment, then --resume, ends where an undisturbed run ends: to the bit."""

from __future__ import annotations

import csv
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from actune.base.rates import Rates
from actune.data.rows import Row
from actune.errors import UserError
from actune.tune import guards, resume
from actune.tune.command import train
from actune.tune.fast import proof
from actune.tune.metrics import SAMPLES, read_metrics
from actune.tune.options import TrainOptions
from actune.tune.run import Manifest, read_manifest
from conftest import make_rows

# Dropout, augmentation, validation, accumulation with a last short window, a checkpoint at every second step.
TRAIN = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from actune.errors import UserError
from actune.tune.command import train
from actune.tune.options import TrainOptions
options = TrainOptions(epochs=6, batch_size=3, grad_accum=2, dropout=0.2, save_steps=2, lr=1e-2)
try:
    data, base, out = [Path(sys.argv[1])], sys.argv[2], Path(sys.argv[3])
    sys.exit(train(data, base=base, out=out, options=options, resume="--resume" in sys.argv))
except UserError as error:
    sys.exit(str(error))
"""
STEPS = 6 * 7  # 40 training rows: 14 batches, the last of one row; 7 steps an epoch


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "rows.csv"
    with file.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["actions", "input", "output"])
        writer.writerows(["、".join(row.actions), row.question, row.script] for row in make_rows(48))
    return file


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def start(table: Path, tiny_base: Path) -> Start:
    def begin(run: Path, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", TRAIN, str(table), str(tiny_base), str(run), *more]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, encoding="utf-8")

    return begin


def adapter_hash(run: Path) -> str:
    return hashlib.sha256((run / "adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def undisturbed(start: Start, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[dict[str, float]], float]:
    """Hash and log of an undisturbed run, and its seconds."""
    run, begun = tmp_path_factory.mktemp("whole") / "run", time.monotonic()
    process = start(run)
    errors = process.communicate()[1]
    assert process.returncode == 0, errors
    return adapter_hash(run), read_metrics(run), time.monotonic() - begun


def kill_and_resume(start: Start, run: Path, delays: list[float], after_step: int = 0) -> None:
    """Kill after each delay (counted from when the log holds `after_step` lines more), then let it end."""
    for delay in delays:
        seen = len(read_metrics(run))
        process = start(run, "--resume")
        while after_step and process.poll() is None and len(read_metrics(run)) < min(seen + after_step, STEPS):
            time.sleep(0.005)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = start(run, "--resume")
    errors = process.communicate()[1]
    assert process.returncode == 0, errors


def test_killed_three_times_it_ends_to_the_bit_where_an_undisturbed_run_ends(
    start: Start, undisturbed: tuple[str, list[dict[str, float]], float], tmp_path: Path
) -> None:
    rng = random.Random(time.time_ns())
    delays = [rng.uniform(0, 0.2) for _ in range(3)]
    run = tmp_path / "运行 1"
    kill_and_resume(start, run, delays, after_step=6)
    digest, log, _ = undisturbed
    assert adapter_hash(run) == digest, delays
    assert read_metrics(run) == log
    assert len(read_metrics(run, SAMPLES)) == 3 * sum("eval_f1" in line for line in log)
    steps = [line["step"] for line in read_metrics(run) if "loss" in line]
    assert steps == list(range(1, log[-1]["step"] + 1))  # the run may end before `STEPS`


def test_a_run_that_chose_bf16_goes_on_in_bf16_to_the_bit(
    monkeypatch: pytest.MonkeyPatch, table: Path, tiny_base: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("ACTUNE_CACHE", str(tmp_path / "cache"))
    quick = Rates(100, 0, 500, 10, 10, 10.0)
    monkeypatch.setattr(proof, "rates", lambda: quick)
    monkeypatch.setattr(proof, "LEAST_WIDTH", 1)
    # The tiny base's few random weights round to other gradients than a real base's.
    monkeypatch.setitem(proof.TOLERANCE, torch.bfloat16, 0.9)
    options = TrainOptions(epochs=1, batch_size=3, grad_accum=2, dropout=0.2, save_steps=2, lr=1e-2)

    def run(name: str, again: bool = False) -> int:
        return train([table], base=str(tiny_base), out=tmp_path / name, options=options, resume=again)

    assert run("whole") == 0
    check = guards.check_loss

    def stop(loss: torch.Tensor, rows: list[Row], step: int) -> None:
        check(loss, rows, step)
        if step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(guards, "check_loss", stop)
        assert run("parts") == 130
    # What was kept of the base is gone: it answers anew as at the start. Nothing else is proved or chosen anew.
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr(proof, "choose", None)
    assert run("parts", again=True) == 0
    for name in ("whole", "parts"):
        assert read_manifest(tmp_path / name).probe["dtype"] == "bf16"
        saved = load_file(tmp_path / name / "adapter_model.safetensors")
        assert {value.dtype for value in saved.values()} == {torch.float32}
    assert adapter_hash(tmp_path / "parts") == adapter_hash(tmp_path / "whole")


def test_ctrl_c_saves_says_how_to_go_on_and_changes_nothing(
    start: Start, undisturbed: tuple[str, list[dict[str, float]], float], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = start(run)
    while process.poll() is None and len(read_metrics(run)) < 9:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    errors = process.communicate()[1]
    assert process.returncode == 130, errors
    assert "--resume" in errors
    assert "Traceback" not in errors
    last = read_metrics(run)[-1]["step"]
    assert resume.step_of(resume.checkpoints(run)[-1]) == last < STEPS
    kill_and_resume(start, run, [])
    assert adapter_hash(run) == undisturbed[0]


@pytest.mark.slow
def test_forty_kills_at_random_moments(
    start: Start, undisturbed: tuple[str, list[dict[str, float]], float], tmp_path: Path
) -> None:
    digest, log, seconds = undisturbed
    rng = random.Random(int(os.environ.get("ACTUNE_TEST_SEED", "0")) or time.time_ns())
    for number in range(40):
        run = tmp_path / f"run-{number}"
        delay = rng.uniform(0, 1.05 * seconds)
        kill_and_resume(start, run, [delay])
        assert adapter_hash(run) == digest, delay
        assert read_metrics(run) == log, delay


def test_unfinished_checkpoints_are_never_taken(tmp_path: Path) -> None:
    for name in (
        "checkpoint-2",
        "checkpoint-10",
        f"{resume.STAGING}/checkpoint-12",
        "checkpoint-x",
        "checkpoint-14.tmp",
    ):
        (tmp_path / name).mkdir(parents=True)
    assert [path.name for path in resume.checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-10"]
    resume.clear_staging(tmp_path)
    assert not (tmp_path / resume.STAGING).exists()


def test_old_checkpoints_go_but_the_best_stays(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        staged = tmp_path / resume.STAGING / f"checkpoint-{step}"
        staged.mkdir(parents=True)
        (staged / "optimizer.pt").write_bytes(b"x")
        resume.publish(tmp_path, step, keep=1)
    assert [path.name for path in resume.checkpoints(tmp_path)] == ["checkpoint-1", "checkpoint-3", "checkpoint-4"]


def test_a_used_folder_is_refused_with_the_two_ways_out(tmp_path: Path) -> None:
    resume.check_unused(tmp_path / "new", resume=False)
    resume.check_unused(tmp_path, resume=True)
    (tmp_path / ".lock").touch()
    resume.check_unused(tmp_path, resume=False)
    (tmp_path / "actune.json").touch()
    resume.check_unused(tmp_path, resume=True)
    with pytest.raises(UserError) as error:
        resume.check_unused(tmp_path, resume=False)
    assert "--resume" in error.value.fix
    assert "another --out" in error.value.fix


@pytest.mark.parametrize("again", [True, False])
def test_a_folder_with_something_else_is_refused(tmp_path: Path, again: bool) -> None:
    (tmp_path / "thesis.docx").touch()
    with pytest.raises(UserError, match="not empty"):
        resume.check_unused(tmp_path, resume=again)


def test_another_kind_of_cpu_is_refused_and_an_old_run_is_not() -> None:
    manifest = Manifest({}, {}, "small", {}, {}, {"device": "cpu", "cpu": "A 1"})
    resume.check_machine(manifest, "A 1")
    resume.check_machine(Manifest({}, {}, "small", {}, {}, {"device": "cpu"}), "B 2")
    with pytest.raises(UserError) as error:
        resume.check_machine(manifest, "B 2")
    assert "A 1" in error.value.wanted
    assert "B 2" in error.value.got


def test_what_has_changed_since_the_start_is_named() -> None:
    manifest = Manifest({"id": "b", "sha256": "B"}, {}, "small", {"lr": 1.0, "rank": 8}, {"sha256": "D"}, {})
    resume.check_same(manifest, {"lr": 1.0, "rank": 8}, "D", "B")
    with pytest.raises(UserError) as error:
        resume.check_same(manifest, {"lr": 2.0, "rank": 8}, "E", "C")
    assert "lr: 1.0 -> 2.0" in error.value.got
    assert "rows have changed" in error.value.got
    assert "not the base b" in error.value.got
    assert "rank" not in error.value.got
