"""CPU seconds a step, peak memory and loss of LoRA training: source recipe, actune plain, actune fast (fp32, bf16).

    python benchmarks/train_speed.py --base ~/.cache/actune/bases/smollm2 --rounds 3

Each measure is a fresh process on one pinned core; sides alternate. What counts is process CPU time, for machines are
shared. The loss after the last step stands beside each, so that speed at another loss cannot pass. The rate of one
matrix product is measured in the same process, before and after: the floor is that of the moment.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SIDES = ("source", "plain", "fp32", "bf16")
DATA = Path(__file__).parent.parent / "examples" / "actions_en.csv"


def model_and_batch(side: str, base: Path, rows: int, dropout: float) -> tuple[Any, dict[str, Any]]:
    """The base with the source recipe's adapter, and a step's rows."""
    from dataclasses import replace

    from actune.base.load import load_model, load_tokenizer
    from actune.data.load import load_rows
    from actune.prompt import PromptFormat
    from actune.tune.dataset import RowDataset, collate, view_of
    from actune.tune.lora import add_lora
    from actune.tune.options import TrainOptions, settle

    settings = replace(settle(TrainOptions(recipe="origin", dropout=dropout)), checkpointing=side == "source")
    tokenizer, table = load_tokenizer(base), load_rows([DATA], None)
    model = add_lora(load_model(base, "cpu", "bf16" if side == "bf16" else "fp32"), settings)
    data = RowDataset(table, tokenizer, PromptFormat.for_rows(table, tokenizer), view_of(table, settings, 8192))
    return model.train(), collate([data[place] for place in range(rows)])


def floor_flops(model: Any, batch: dict[str, Any]) -> float:
    """FLOPs that exact LoRA training of the rows needs: no weight gradient but LoRA's, the shared prefix once."""
    import torch

    from actune.tune.fast.pack import pack

    rows, head = pack(batch, share=True), model.get_output_embeddings()
    total = 4.0 * len(rows.targets) * head.in_features * head.out_features
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            times = 6 if "lora_" in name else 4
            total += times * rows.input_ids.shape[1] * module.in_features * module.out_features
    return total


def measure(side: str, base: Path, rows: int, dropout: float, steps: int) -> dict[str, float]:
    """Take some optimizer steps; the first one warms up."""
    import torch

    from actune.base.rates import measure as rates_now
    from actune.tune.fast.path import FastPath
    from actune.tune.trainer import summed_loss

    torch.set_num_threads(1)
    model, batch = model_and_batch(side, base, rows, dropout)
    path = FastPath(model)
    if side == "source":
        # Batches of 4, all logits, layers computed again: as the recipe's Trainer does it.
        model.gradient_checkpointing_enable({"use_reentrant": False})

        def backward() -> float:
            whole = int((batch["labels"] != -100).sum())
            seen = 0.0
            for begin in range(0, rows, 4):
                part = {key: value[begin : begin + 4] for key, value in batch.items() if key != "rows"}
                loss = model(**part, num_items_in_batch=whole, use_cache=False).loss
                loss.backward()
                seen += float(loss.detach())
            return seen
    else:
        if side != "plain":
            path.put_in()

        def backward() -> float:
            call = (model, batch) if side != "plain" else (model, model.get_output_embeddings(), batch)
            total, count = (path.loss if side != "plain" else summed_loss)(*call)
            (total / count).backward()
            return float(total.detach()) / count

    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, weight_decay=0.0)
    before, seconds, loss = rates_now(), [], 0.0
    for _ in range(steps + 1):
        begun = time.process_time()
        loss = backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.process_time() - begun)
    rate = max(before.fp32, rates_now().fp32)
    return {
        "seconds": statistics.median(seconds[1:]),
        "loss": loss,
        "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "gflop": floor_flops(model, batch) / 1e9,
        "rate": rate,
    }


def main() -> None:
    """Run all sides in turn and print their medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.base, args.rows, args.dropout, args.steps)))
        return
    os.sched_setaffinity(0, {args.core})
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(args.rounds):
        for side in args.sides.split(","):
            command = [sys.executable, __file__, *sys.argv[1:], "--one", side]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, encoding="utf-8", check=True)
            found.setdefault(side, []).append(json.loads(done.stdout.splitlines()[-1]))
    print("side    CPU s/step (least-most)   loss      peak GB  fp32 floor share")
    for side, runs in found.items():
        seconds = [run["seconds"] for run in runs]
        share = statistics.median(run["gflop"] / run["rate"] / run["seconds"] for run in runs)
        loss, memory = runs[0]["loss"], max(run["gigabytes"] for run in runs)
        spread = f"{statistics.median(seconds):.2f} ({min(seconds):.2f}-{max(seconds):.2f})"
        print(f"{side:7} {spread:25} {loss:.5f}  {memory:.2f}     {share:.0%}")


if __name__ == "__main__":
    main()
