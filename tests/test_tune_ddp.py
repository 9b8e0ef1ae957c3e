"""Several processes on one machine (gloo): the same training as one process with the same rows a step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from actune.errors import UserError
from actune.tune import resume, several
from actune.tune.metrics import SAMPLES, read_metrics
from actune.tune.options import RECIPES
from actune.tune.run import read_manifest, write_rows
from actune.tune.several import Filled
from conftest import make_rows

# Rows that neither 2 nor 4 divide, accumulation, validation, what is remembered of the base: all that could part them.
ROWS = 45
SAME = ["--epochs", "2", "--lr", "1e-2", "--practice", "off", "--save-steps", "2", "--device", "cpu"]
# Sums of fp32 numbers in another order.
APART = 1e-4


# What accelerate launch makes of examples/distributed/fsdp2.yaml, but for bf16.
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}
OPENED, LITTLE = (str(Path(__file__).parent / name) for name in ("fsdp_child.py", "corpus_child.py"))


def command(words: list[str], processes: int, program: Sequence[str]) -> list[str]:
    launch = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    )
    return [sys.executable, *launch, *program, *words]


def start(
    words: list[str], processes: int, program: Sequence[str] = ("-m", "actune"), **more: str
) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | more
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    return subprocess.Popen(command(words, processes, program), env=environment, **streams)


def ended(process: subprocess.Popen[str], status: int = 0) -> str:
    out, errors = process.communicate(timeout=300)
    assert process.returncode == status, errors
    return out + errors


def kill_rank(launcher: subprocess.Popen[str], rank: int) -> None:
    """Kill one of the processes that a launcher started, as a full machine would: without a word."""
    for child in psutil.Process(launcher.pid).children(recursive=True):
        if child.environ().get("RANK") == str(rank):
            child.send_signal(signal.SIGKILL)


class Here:
    """One base, one table, and runs of it."""

    def __init__(self, base: Path, folder: Path) -> None:
        self.base, self.folder, self.table = base, folder, folder / "rows.jsonl"
        write_rows(self.table, make_rows(ROWS))

    def words(self, name: str, *more: str) -> list[str]:
        return ["train", str(self.table), "--base", str(self.base), "--out", str(self.folder / name), *SAME, *more]


@pytest.fixture(scope="module")
def here(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Here:
    return Here(tiny_base, tmp_path_factory.mktemp("several"))


@pytest.fixture(scope="module")
def alone(here: Here) -> Path:
    """One process, undisturbed: 4 rows a batch, 8 a step."""
    ended(start(here.words("alone", "--batch-size", "4", "--grad-accum", "2"), 1))
    return here.folder / "alone"


def assert_same(run: Path, other: Path) -> None:
    mine, theirs = read_metrics(run), read_metrics(other)
    assert [line["step"] for line in mine] == [line["step"] for line in theirs]
    for one, two in zip(mine, theirs, strict=True):
        for key in one.keys() & {"loss", "eval_loss"}:
            assert one[key] == pytest.approx(two[key], rel=APART), one["step"]
    assert read_manifest(run).best["step"] == read_manifest(other).best["step"]
    ours, others = (load_file(folder / "adapter_model.safetensors") for folder in (run, other))
    apart = max(float((value - others[name]).abs().max()) for name, value in ours.items())
    assert apart < 1e-3, apart  # after 10 steps at a learning rate of 1e-2


@pytest.mark.slow
def test_two_processes_train_what_one_trains_with_the_same_rows_a_step(here: Here, alone: Path) -> None:
    told = ended(start(here.words("two", "--batch-size", "2", "--grad-accum", "2"), 2))
    assert told.count("done: ") == 1  # one process speaks
    assert_same(here.folder / "two", alone)
    # ... and one writes.
    lines = read_metrics(here.folder / "two", SAMPLES)
    assert len(lines) == len({(line["step"], line["question"]) for line in lines})


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_a_killed_run_goes_on_with_another_number_of_processes(here: Here, alone: Path, first: int, then: int) -> None:
    name = f"from-{first}-to-{then}"
    words = here.words(name, "--batch-size", "4" if first == 1 else "2", "--grad-accum", "2")
    process = start(words, first)
    while process.poll() is None and not resume.checkpoints(here.folder / name):
        time.sleep(0.01)
    if first == 1:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    else:
        kill_rank(process, 1)
        errors = process.communicate(timeout=60)[1]
        assert process.returncode == 1
        assert "SIGKILL" in errors  # the launcher ends the other, and says which one died of what
    assert not (here.folder / name / "adapter_model.safetensors").exists()
    assert "going on from checkpoint-" in ended(start([*words, "--resume"], then))
    assert_same(here.folder / name, alone)


@pytest.mark.slow
def test_ctrl_c_ends_all_processes_at_the_same_step(here: Here, alone: Path) -> None:
    words = here.words("stopped", "--batch-size", "2", "--grad-accum", "2")
    process = start(words, 2)
    while process.poll() is None and len(read_metrics(here.folder / "stopped")) < 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    last = read_metrics(here.folder / "stopped")[-1]["step"]
    assert resume.step_of(resume.checkpoints(here.folder / "stopped")[-1]) == last < 10
    ended(start([*words, "--resume"], 2))
    assert_same(here.folder / "stopped", alone)


@pytest.mark.slow
def test_a_practice_is_the_same_and_has_the_same_name_under_two_processes(here: Here, tmp_path: Path) -> None:
    corpus, rows = tmp_path / "corpus", make_rows(ROWS)
    corpus.mkdir()
    write_rows(corpus / "en.jsonl", [row for row in rows if "饿" not in row.question])
    write_rows(corpus / "zh.jsonl", [row for row in rows if "饿" in row.question])
    found = []
    for processes in (1, 2):
        cache = tmp_path / f"cache-{processes}"
        places = {"ACTUNE_CACHE": str(cache), "ACTUNE_TEST_CORPUS": str(corpus)}
        assert "practised in" in ended(start(["practice", "--base", str(here.base)], processes, [LITTLE], **places))
        found += list((cache / "practice").iterdir())
    assert found[0].name == found[1].name
    assert_same(*found)


@pytest.mark.slow
def test_a_shared_out_model_is_trained_killed_resumed_measured_and_kept_as_a_whole_one(here: Here, alone: Path) -> None:
    words = here.words("fsdp", "--batch-size", "2", "--grad-accum", "2", "--plain")
    process = start(words, 2, [OPENED], **FSDP2)
    while process.poll() is None and not resume.checkpoints(here.folder / "fsdp"):
        time.sleep(0.01)
    kill_rank(process, 1)
    process.communicate(timeout=60)
    # All of it again takes part in what comes after the last step: scores, the best adapter, when to act.
    assert ended(start([*words, "--resume"], 2, [OPENED], **FSDP2)).count("done: ") == 1
    assert_same(here.folder / "fsdp", alone)
    assert read_manifest(here.folder / "fsdp").acting == read_manifest(alone).acting


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED"])
def test_a_model_cannot_be_shared_out_on_a_cpu_and_that_is_said(here: Here, kind: str) -> None:
    words = here.words(kind)
    told = ended(start(words, 2, **{f"ACCELERATE_USE_{kind}": "true"}), 1)
    ours = told[: told.index("torch/distributed/run.py")] if "torch/distributed/run.py" in told else told
    assert "no GPU to train on" in ours
    assert "torchrun --nproc_per_node N -m actune train" in ours
    assert "actune/tune" not in told  # no traceback of ours
    assert not (here.folder / kind / "actune.json").exists()


@pytest.mark.parametrize("name", several.SHARDED)
def test_sharing_out_is_refused_on_a_cpu_only(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    several.refuse_sharded(torch.device("cpu"))
    monkeypatch.setenv(name, "true")
    several.refuse_sharded(torch.device("cuda"))
    with pytest.raises(UserError) as error:
        several.refuse_sharded(torch.device("cpu"))
    assert several.SHARDED[name] in error.value.where


@pytest.mark.parametrize(
    ("began", "now", "batch", "accum"), [(1, 1, 4, 2), (1, 2, 4, 1), (1, 4, 2, 1), (1, 8, 1, 1), (2, 1, 4, 4)]
)
def test_a_step_has_as_many_rows_whatever_the_number_of_processes(
    began: int, now: int, batch: int, accum: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(now))
    found = several.shared_out(RECIPES["small"], began)  # 4 x 2
    assert (found.batch_size, found.grad_accum) == (batch, accum)
    assert found.batch_size * found.grad_accum * now == 8 * began


def test_rows_that_cannot_be_shared_evenly_are_refused_with_what_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError) as error:
        several.shared_out(RECIPES["small"], 1)
    assert "1, 2, 4, 8" in error.value.fix


def test_every_process_gets_as_many_batches_and_no_row_twice() -> None:
    class Rows:
        def __len__(self) -> int:
            return 5

        def __getitem__(self, place: int) -> dict[str, Any]:
            return {"input_ids": [1, 2, 3], "labels": [-100, 7, place], "rows": place}

    filled = Filled(Rows(), 4)  # type: ignore[arg-type]
    items = [filled[place] for place in range(len(filled))]
    assert len(items) == 8
    assert [item["labels"][-1] for item in items] == [0, 1, 2, 3, 4, -100, -100, -100]
    assert {label for item in items[5:] for label in item["labels"]} == {-100}
