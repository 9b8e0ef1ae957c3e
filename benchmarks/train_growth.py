"""How the cost of training grows with rows and with their length.

    python benchmarks/train_growth.py --base ~/.cache/actune/bases/smollm2 --plot growth.png

Rows: CPU seconds and peak memory of reading, checking and encoding them, all that is done before the first step; a
step costs the same whatever their number. Length: CPU seconds and peak memory of a step of 4 rows that are so long.
Each point is a fresh process on one pinned core.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from train_speed import by_actune

ROWS, LENGTHS = (60, 600, 6000), (256, 512, 1024, 2048)
DATA = Path(__file__).parent.parent / "examples" / "actions_en.csv"


def settings() -> Any:
    """The recipe `small`."""
    from actune.tune.options import TrainOptions, settle

    return settle(TrainOptions(practice="off", dtype="fp32"))


def prepared(base: Path, count: int) -> None:
    """Do all that is done with rows before the first step."""
    from dataclasses import replace

    from actune.base.source import resolve
    from actune.data.load import load_rows
    from actune.tune.prepare import prepare
    from actune.tune.run import write_rows

    some = load_rows([DATA], None)
    rows = [
        replace(some[place % len(some)], question=f"{some[place % len(some)].question} {place}")
        for place in range(count)
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        write_rows(file, rows)
        prepare([file], load_rows([file], None), resolve(str(base), "hub"), settings(), None)


def stepped(base: Path, length: int, dtype: str) -> float:
    """Take three steps of 4 rows; return the CPU seconds of one."""
    import statistics

    import torch

    from actune.base.load import load_model
    from actune.tune.lora import add_lora

    torch.manual_seed(0)
    model = add_lora(load_model(base, "cpu", dtype), settings()).train()
    ids = torch.randint(10, 10000, (4, length))
    labels = ids.clone()
    # A row's answer is a few dozen tokens, however long its list and history are.
    labels[:, :-64] = -100
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    return statistics.median(by_actune(dtype, model, batch, 3)[0][1:])


def point(base: Path, kind: str, size: int, dtype: str) -> dict[str, float]:
    """Measure one point."""
    import torch

    torch.set_num_threads(1)
    begun = time.process_time()
    if kind == "rows":
        prepared(base, size)
        seconds = time.process_time() - begun
    else:
        seconds = stepped(base, size, dtype)
    return {"seconds": seconds, "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}


def draw(points: dict[str, list[tuple[int, dict[str, float]]]], file: Path) -> None:
    """Plot seconds and memory over size."""
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(2, 2, figsize=(9, 7), layout="constrained")
    for name, line in points.items():
        column = 0 if name == "rows" else 1
        for row, (key, label) in enumerate((("seconds", "CPU seconds"), ("gigabytes", "peak memory, GB"))):
            axis = axes[row][column]
            axis.plot([size for size, _ in line], [found[key] for _, found in line], marker="o", label=name)
            axis.set(xlabel="rows" if column == 0 else "tokens a row", ylabel=label, xscale="log", ylim=(0, None))
            axis.legend()
    plt.savefig(file, dpi=120)


def main() -> None:
    """Walk through the sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--one", nargs=3, metavar=("KIND", "SIZE", "DTYPE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        kind, size, dtype = args.one
        print(json.dumps(point(args.base, kind, int(size), dtype)))
        return
    os.sched_setaffinity(0, {args.core})
    walks = {"rows": ("rows", "fp32", ROWS), **{f"step, {d}": ("length", d, LENGTHS) for d in ("fp32", "bf16")}}
    points: dict[str, list[tuple[int, dict[str, float]]]] = {}
    for name, (kind, dtype, sizes) in walks.items():
        for size in sizes:
            command = [sys.executable, __file__, "--base", str(args.base), "--one", kind, str(size), dtype]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, encoding="utf-8", check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            points.setdefault(name, []).append((size, found))
            print(f"{name:12} {size:6} {found['seconds']:8.2f} CPU s  {found['gigabytes']:.2f} GB", flush=True)
    if args.plot:
        draw(points, args.plot)


if __name__ == "__main__":
    main()
