"""Several processes on one machine (gloo): the same training as one process with the same rows a step."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from actune.tune.metrics import read_metrics
from actune.tune.run import read_manifest, write_rows
from conftest import make_rows

pytestmark = pytest.mark.slow


def run(words: list[str], processes: int) -> subprocess.CompletedProcess[str]:
    launch = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    )
    same = ["--epochs", "1", "--grad-accum", "2", "--lr", "1e-2", "--practice", "off", "--device", "cpu"]
    command = [sys.executable, *launch, "-m", "actune", "train", *words, *same]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment, check=False)


def test_two_processes_train_what_one_trains_with_the_same_rows_a_step(tiny_base: Path, tmp_path: Path) -> None:
    table = tmp_path / "rows.jsonl"
    write_rows(table, make_rows(40))
    for name, processes, batch in (("one", 1, "4"), ("two", 2, "2")):
        words = [str(table), "--base", str(tiny_base), "--out", str(tmp_path / name), "--batch-size", batch]
        done = run(words, processes)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("done: ") == 1  # one process speaks and writes
    one, two = read_metrics(tmp_path / "one"), read_metrics(tmp_path / "two")
    assert [line["step"] for line in one] == [line["step"] for line in two]
    for mine, theirs in zip(one, two, strict=True):
        for key in mine.keys() & {"loss", "eval_loss"}:
            assert mine[key] == pytest.approx(theirs[key], rel=1e-5)
    assert read_manifest(tmp_path / "one").best["step"] == read_manifest(tmp_path / "two").best["step"]
