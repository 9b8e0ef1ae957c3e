"""Memory that `plan` reckons against the peak that `train` takes, each in a fresh process.

    python benchmarks/plan.py --bases smollm2,gemma3,0.5B,1B,1.7B

0.5B, 1B and 1.7B are random bases of real width (Qwen2.5-0.5B, Llama 3.2 1B, Qwen3-1.7B) with a few layers and the
tokenizer of smollm2; 1B is stored in bf16, as hubs have it, and trained in fp32. What is compared is the whole process
with the sum that the training prints before it loads anything: its peak (`VmHWM`), and the peak of its own pages
(`RssAnon`, looked at every 20 ms), which leaves out pages of the base's file that the system can take back.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent.parent / "examples" / "actions_en.csv"
LAYERS = 4
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "0.5B": ("Qwen2Config", {"vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864}
             | {"num_attention_heads": 14, "num_key_value_heads": 2}),
    "1B": ("LlamaConfig", {"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192}
           | {"num_attention_heads": 32, "num_key_value_heads": 8}),
    "1.7B": ("Qwen3Config", {"vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144}
             | {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128}),
}  # fmt: skip
CHILD = """
import sys
from pathlib import Path
from actune.tune.command import train
from actune.tune.options import TrainOptions, read_config
train([Path(sys.argv[1])], base=sys.argv[2], out=Path(sys.argv[3]), config=Path(sys.argv[4]))
# Not ru_maxrss: a process that is started begins with its parent's.
print("peak", int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024)
"""


def random_base(name: str, folder: Path) -> Path:
    """Write a random base of one of the `SHAPES`."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM

    from actune.base.load import load_tokenizer
    from actune.base.source import resolve

    kind, sizes = SHAPES[name]
    tokenizer = load_tokenizer(resolve("smollm2").path)
    config = getattr(transformers, kind)(
        **sizes, num_hidden_layers=LAYERS, tie_word_embeddings=True, eos_token_id=tokenizer.eos_token_id
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if name == "1B" else torch.float32)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def measure(base: str, options: str, rows: int) -> tuple[float, float, float]:
    """Train in a fresh process; return GB planned, GB at the peak, and those of them that are its own."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        table, config = folder / "rows.csv", folder / "options.yaml"
        lines = DATA.read_text(encoding="utf-8").splitlines(keepends=True)
        table.write_text("".join(lines[:1]) + "".join(_records(lines[1:])[:rows]), encoding="utf-8")
        config.write_text("epochs: 1\npractice: off\n" + options.replace(";", "\n"), encoding="utf-8")
        place = str(random_base(base, folder / "base")) if base in SHAPES else base
        words = [sys.executable, "-c", CHILD, str(table), place, str(folder / "run"), str(config)]
        with (folder / "out").open("w+") as out, (folder / "err").open("w+") as err:
            child = subprocess.Popen(words, stdout=out, stderr=err)
            own = watch(child)
        printed, errors = ((folder / name).read_text(encoding="utf-8") for name in ("out", "err"))
    found = re.search(r"memory   about ([\d.]+) GB", errors)
    peak = re.search(r"peak (\d+)", printed)
    if not found or not peak:
        raise SystemExit(errors[-2000:])
    return float(found[1]), int(peak[1]) / 1e9, own / 1e9


def watch(child: subprocess.Popen[bytes]) -> int:
    """Wait for a process; return the most bytes that it had to itself."""
    most, status = 0, Path(f"/proc/{child.pid}/status")
    while child.poll() is None:
        if found := re.search(r"RssAnon:\s+(\d+)", status.read_text(encoding="utf-8")):
            most = max(most, int(found[1]) * 1024)
        time.sleep(0.02)
    return most


def _records(lines: list[str]) -> list[str]:
    """Join the lines of cells that span several."""
    records, open_ = [], ""
    for line in lines:
        open_ += line
        if open_.count('"') % 2 == 0:
            records.append(open_)
            open_ = ""
    return records


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bases", default=",".join(["smollm2", "gemma3", *SHAPES]))
    parser.add_argument("--options", default="plain: false", help="lines of options, divided by ;")
    parser.add_argument("--rows", type=int, default=16)
    args = parser.parse_args()
    print("base      options                    planned GB  peak GB  apart  own GB  apart")
    for base in args.bases.split(","):
        planned, *peaks = measure(base, args.options, args.rows)
        told = " ".join(f"{peak:7.2f} {planned / peak - 1:+6.0%}" for peak in peaks)
        print(f"{base:9} {args.options:26} {planned:10.2f} {told}", flush=True)


if __name__ == "__main__":
    main()
