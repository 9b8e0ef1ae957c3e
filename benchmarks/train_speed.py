"""CPU seconds a step, peak memory and loss of LoRA training: source recipe, TRL, actune plain, fast fp32, fast bf16.

    python benchmarks/train_speed.py --base ~/.cache/actune/bases/smollm2 --rounds 3

Each measure is a fresh process on one pinned core; sides alternate. What counts is process CPU time, for machines are
shared. The loss after the last step stands beside each, so that speed at another loss cannot pass. The rate of one
matrix product is measured in the same process, before and after: the floor is that of the moment.

`--base qwen2.5-0.5b` and `--base phi-3` are two random layers of real width, with SmolLM2's tokenizer. Plans that save
memory are sides too: `bf16@4` computes four rows of a step at a time, `bf16-twice` all layers twice.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from random_bases import RANDOM, load

SIDES = ("source", "trl", "plain", "fp32", "bf16")
DATA = Path(__file__).parent.parent / "examples" / "actions_en.csv"
BATCH = 4
RATE = 1e-4


def model_and_rows(side: str, base: str, count: int | None, dropout: float) -> tuple[Any, list[dict[str, Any]]]:
    """The base with the source recipe's adapter, and a step's rows, or all of them."""
    from dataclasses import replace

    from actune.base.load import load_tokenizer
    from actune.base.source import resolve
    from actune.data.load import load_rows
    from actune.prompt import PromptFormat
    from actune.tune.dataset import RowDataset, view_of
    from actune.tune.lora import add_lora
    from actune.tune.options import TrainOptions, settle

    targets = "all-linear" if base in RANDOM else None
    options = TrainOptions(recipe="origin", dropout=dropout, targets=targets)
    settings = replace(settle(options), checkpointing=side in ("source", "trl"))
    model = add_lora(load(base, "bf16" if side.startswith("bf16") else "fp32"), settings)
    tokenizer, table = load_tokenizer(resolve("smollm2").path if base in RANDOM else base), load_rows([DATA], None)
    data = RowDataset(table, tokenizer, PromptFormat.for_rows(table, tokenizer), view_of(table, settings, 8192))
    rows = [data[place] for place in range(count or len(data))]
    for row in rows:
        row["input_ids"] = [token % model.config.vocab_size for token in row["input_ids"]]
        row["labels"] = [label if label < 0 else label % model.config.vocab_size for label in row["labels"]]
    return model.train(), rows


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


def by_trainer(side: str, model: Any, rows: list[dict[str, Any]], steps: int) -> tuple[list[float], float]:
    """Train as the source recipe does, by the Trainer of transformers, or by TRL's with the same arguments."""
    from datasets import Dataset
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments

    seconds: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            seconds.append(-time.process_time())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds[-1] += time.process_time()

    options: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": BATCH,
        "gradient_accumulation_steps": len(rows) // BATCH,
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "num_train_epochs": steps,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    if side == "trl":
        from trl import SFTConfig, SFTTrainer

        told = [
            {"input_ids": row["input_ids"], "completion_mask": [int(label >= 0) for label in row["labels"]]}
            for row in rows
        ]
        arguments = SFTConfig(**options, bf16=False, max_length=None, completion_only_loss=True)
        trainer = SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(told),
            processing_class=tokenizer_of(model),
            callbacks=[Clock()],
        )
    else:
        told = [{"input_ids": row["input_ids"], "labels": row["labels"]} for row in rows]
        for row in told:
            row["attention_mask"] = [1] * len(row["input_ids"])
        collator = DataCollatorForSeq2Seq(tokenizer_of(model), padding=True)
        trainer = Trainer(
            model=model,
            args=TrainingArguments(**options),
            train_dataset=Dataset.from_list(told),
            data_collator=collator,
            callbacks=[Clock()],
        )
    trainer.train()
    return seconds, [line["loss"] for line in trainer.state.log_history if "loss" in line][-1]


def tokenizer_of(model: Any) -> Any:
    """The tokenizer that stands in the model's folder, or that of random bases."""
    from actune.base.load import load_tokenizer
    from actune.base.source import resolve

    name = model.config.name_or_path
    tokenizer = load_tokenizer(name if Path(name).is_dir() and name else resolve("smollm2").path)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def by_actune(side: str, model: Any, batches: list[dict[str, Any]], steps: int) -> tuple[list[float], float]:
    """Train on the plain or the fast path, with a step's rows in these batches."""
    import torch

    from actune.tune.fast.path import FastPath
    from actune.tune.memory import hold_freed
    from actune.tune.trainer import summed_loss

    hold_freed()  # as `actune train` does
    path, head = FastPath(model), model.get_output_embeddings()
    if not side.startswith("plain"):
        path.put_in()
    if "-twice" in side:
        # As the Trainer does: with dropout the second time must draw what the first one drew.
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    learnt = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in batches)
    adapter = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(adapter, lr=RATE, weight_decay=0.0, fused=True)  # as the Trainer does
    seconds, loss = [], 0.0
    for _ in range(steps):
        begun, loss = time.process_time(), 0.0
        for batch in batches:
            total, _ = summed_loss(model, head, batch) if side.startswith("plain") else path.loss(model, batch)
            (total / learnt).backward()
            loss += float(total.detach()) / learnt
        torch.nn.utils.clip_grad_norm_(adapter, 1.0)  # as the Trainer does
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.process_time() - begun)
    return seconds, loss


def measure(side: str, base: str, count: int, dropout: float, steps: int) -> dict[str, float]:
    """Take some optimizer steps; the first one warms up."""
    import torch

    from actune.base.rates import measure as rates_now
    from actune.tune.dataset import collate

    torch.set_num_threads(1)
    model, rows = model_and_rows(side, base, count, dropout)
    batch, before = collate(rows), rates_now()
    if side in ("source", "trl"):
        seconds, loss = by_trainer(side, model, rows, steps + 1)
    else:
        some = int(side.partition("@")[2] or count)
        batches = [collate(rows[first : first + some]) for first in range(0, count, some)]
        seconds, loss = by_actune(side, model, batches, steps + 1)
    # What the routes can do at best, not what they did in a moment when others used the cache.
    peak, after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, rates_now()
    rate = max(max(found.fp32, found.onednn) for found in (before, after))
    return {
        "seconds": statistics.median(seconds[1:]),
        "loss": loss,
        "gigabytes": peak,
        "gflop": floor_flops(model, batch) / 1e9,
        "rate": max(before.bf16, after.bf16) if side.startswith("bf16") else rate,
    }


def main() -> None:
    """Run all sides in turn and print their medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help=f"a folder, or one of {', '.join(RANDOM)}")
    parser.add_argument("--rows", type=int, default=8, help=f"a multiple of {BATCH}")
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
            print(side, json.dumps(found[side][-1]), file=sys.stderr, flush=True)
    show(args, found)


def show(args: argparse.Namespace, found: dict[str, list[dict[str, float]]]) -> None:
    """Print the table; ratios are to the first side, floors to the side's own dtype."""
    print(f"{args.base}, {args.rows} rows a step, dropout {args.dropout}, {args.rounds} rounds, one core")
    print("side       CPU s/step (least-most)   quicker  loss      peak GB  share of its floor")
    first = 0.0
    for side, runs in found.items():
        seconds = [run["seconds"] for run in runs]
        middle = statistics.median(seconds)
        first = first or middle
        share = statistics.median(run["gflop"] / run["rate"] / run["seconds"] for run in runs)
        loss, memory = runs[0]["loss"], max(run["gigabytes"] for run in runs)
        spread = f"{middle:.2f} ({min(seconds):.2f}-{max(seconds):.2f})"
        print(f"{side:10} {spread:25} {first / middle:.2f}x    {loss:.5f}   {memory:.2f}     {share:.0%}")


if __name__ == "__main__":
    main()
