"""CPU seconds of a whole training from the shell: the source recipe as a script, and `actune train --recipe origin`.

    python benchmarks/whole_run.py --base ~/.cache/actune/bases/smollm2 --rounds 1

Each is a fresh process on one pinned core, with 3 epochs of `examples/actions_en.csv`, 4 x 4 rows a step, dropout 0.1.
The script is the Trainer of transformers with peft over the same token ids, gradient checkpointing, an adapter saved at
the end. `actune train` checks, plans, proves its path, and writes all that a run holds, besides. `actune fp32` is told
`--dtype fp32`; `actune` chooses.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from train_speed import BATCH, DATA, RATE, model_and_rows, tokenizer_of

EPOCHS, STEP = 3, 16
SIDES = ("script", "actune fp32", "actune")


def script(base: str, out: str) -> None:
    """Train as the source recipe does."""
    import torch
    from datasets import Dataset
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    torch.set_num_threads(1)
    model, rows = model_and_rows("source", base, None, 0.1)
    told = [{key: row[key] for key in ("input_ids", "labels")} | {"attention_mask": [1] * len(row["input_ids"])}
            for row in rows]  # fmt: skip
    options = TrainingArguments(
        output_dir=out,
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=STEP // BATCH,
        gradient_checkpointing=True,
        num_train_epochs=EPOCHS,
        learning_rate=RATE,
        logging_steps=10,
        save_steps=100,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    collator = DataCollatorForSeq2Seq(tokenizer_of(model), padding=True)
    model.enable_input_require_grads()
    Trainer(model=model, args=options, train_dataset=Dataset.from_list(told), data_collator=collator).train()
    model.save_pretrained(out)


def measure(side: str, base: str) -> tuple[float, float]:
    """Run one side in a fresh process; return CPU seconds and seconds by the clock."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, __file__, "--base", base, "--script", folder]
        if side != "script":
            words = [sys.executable, "-m", "actune", "train", str(DATA), "--base", base, "--out", f"{folder}/run"]
            words += ["--recipe", "origin", *(["--dtype", "fp32"] if side == "actune fp32" else [])]
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(words, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used, time.perf_counter() - begun


def main() -> None:
    """Run all sides in turn and print their medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="a folder")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--script", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.script:
        script(args.base, args.script)
        return
    os.sched_setaffinity(0, {args.core})
    os.environ["OMP_NUM_THREADS"] = "1"
    found: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    for _ in range(args.rounds):
        for side in SIDES:
            found[side].append(measure(side, args.base))
    first = statistics.median(used for used, _ in found["script"])
    print("side         CPU s   quicker   s by the clock")
    for side, runs in found.items():
        used, clock = (statistics.median(values) for values in zip(*runs, strict=True))
        print(f"{side:11} {used:6.1f}   {first / used:.2f}x     {clock:.1f}")


if __name__ == "__main__":
    main()
