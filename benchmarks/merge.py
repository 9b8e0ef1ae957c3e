"""What merging keeps: a training on an NF4, an int8 and an fp32 base, scored unmerged and merged onto either base.

    python benchmarks/merge.py --base smollm2 --lang en --out runs/merge --limit 24

Can be interrupted and run again: what is done is skipped. Rows: `examples/actions_LANG.csv`, `--limit` of them held
out, of each kind its share. Where the base has practised, the trainings start from there, unless `--practice off`. All
three see the same rows in the same order and compute in fp32, so that only the base's grid differs. Scores are of
greedy, constrained answers to the held-out rows. Beside them: how often the model likes the same token best as the one
that was trained (live, adapter apart, its base on its grid), over the tokens of the held-out references, and how far
its distribution is from that one's.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from actune.actor import load_actor
from actune.data.load import load_rows
from actune.data.rows import Row
from actune.evaluate.command import REPORT, evaluate
from actune.export.case import read_case
from actune.export.merge import merge
from actune.export.parity import Look, compare, look
from actune.say import How
from actune.tune.command import WRITTEN_LAST, train
from actune.tune.options import TrainOptions
from actune.tune.run import MANIFEST, write_rows
from actune.tune.split import split

SEED, MOST_TOKENS = 42, 64
KINDS: dict[str, str | None] = {"fp32": None, "int8": "8bit", "nf4": "4bit"}
SHOWN = ("f1", "none_right", "exact_act")
UNMERGED, TRAINED, ORIGINAL = "unmerged", "onto trained", "onto original"


def ways(kind: str) -> tuple[str, ...]:
    """Say what there is to score: a base in float is its own original."""
    return (UNMERGED, TRAINED, ORIGINAL) if KINDS[kind] else (UNMERGED, TRAINED)


def trained(kind: str, given: argparse.Namespace, rows: Path) -> Path:
    """Train on a base, unless that is done."""
    run: Path = given.out / f"run-{kind}"
    if not (run / WRITTEN_LAST).is_file():
        # Nothing is chosen or calibrated on rows: the same steps for all.
        chosen = {"epochs": given.epochs, "practice": given.practice, "quantize": KINDS[kind]}
        options = TrainOptions(**chosen, valid=0.0, seed=SEED, dtype="fp32")
        if train([rows], base=given.base, out=run, options=options, resume=(run / MANIFEST).is_file()):
            raise KeyboardInterrupt
        for checkpoint in run.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    return run


def merged(run: Path, way: str) -> Path:
    """Merge a run, unless that is done."""
    out = run.with_name(f"{run.name}-{way.replace(' ', '-')}")
    if not (out / MANIFEST).is_file():
        merge(run, out=out, onto="original" if way == ORIGINAL else "trained")
    return out


def scores(place: Path, held: Path) -> dict[str, dict[str, float]]:
    """Score greedy answers to the held-out rows, adapters apart, unless that is done."""
    out = place / "eval"
    if not (out / REPORT).is_file():
        evaluate(str(place), [held], out=out, forgetting=False, how=How(unmerged=True, max_tokens=MOST_TOKENS))
    (found,) = json.loads((out / REPORT).read_text(encoding="utf-8"))["scores"].values()
    return {name: found[name] for name in SHOWN}


def nearness(live: Look, place: Path, rows: list[Row]) -> dict[str, Any]:
    """Compare a merged folder with the model that was trained."""
    parity = compare(live, look(load_actor(place, dtype="fp32", free=True), rows))
    proof = json.loads((place / MANIFEST).read_text(encoding="utf-8"))["merged"]["parity"]
    return {"top1": parity.top1, "kl": parity.kl, "greedy": parity.greedy, "proof": proof}


def measured(kind: str, given: argparse.Namespace, held: Path, done: set[str]) -> Iterator[dict[str, Any]]:
    """Yield what is to be told of each way that is not done."""
    run = trained(kind, given, given.out / "train.jsonl")
    left = [way for way in ways(kind) if way not in done]
    if UNMERGED in left:
        yield {"kind": kind, "way": UNMERGED, "top1": 1.0, "kl": 0.0, "greedy": 1.0, "scores": scores(run, held)}
    places = {way: merged(run, way) for way in left if way != UNMERGED}
    if not places:
        return
    rows = load_rows([held])
    case = replace(read_case(run, "trained", None, "auto", False), rows=rows)
    live = look(case.live() if case.quantize else case.apart(), rows)
    for way, place in places.items():
        gc.collect()
        yield {"kind": kind, "way": way, **nearness(live, place, rows), "scores": scores(place, held)}


def told(estimate: dict[str, float]) -> str:
    return f"{estimate['value']:.2f} ({estimate['low']:.2f}-{estimate['high']:.2f})"


def show(lines: list[dict[str, Any]]) -> None:
    """Print a table in Markdown."""
    print("\n| base | model | f1 | none right | exact | top-1 | KL | greedy texts | proof: top-1, KL |")
    print("|---|---|---|---|---|---|---|---|---|")
    for line in lines:
        proof = line.get("proof")
        cells = [line["kind"], line["way"], *(told(line["scores"][name]) for name in SHOWN)]
        cells += [f"{line['top1']:.3f}", f"{line['kl']:.1e}", f"{line['greedy']:.0%}"]
        print("| " + " | ".join([*cells, f"{proof['top1']:.3f}, {proof['kl']:.0e}" if proof else ""]) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="smollm2")
    parser.add_argument("--lang", choices=("en", "zh"), default="en")
    parser.add_argument("--out", type=Path, default=Path("runs/merge"))
    parser.add_argument("--epochs", type=int, help="of the recipe, where it is not given")
    parser.add_argument("--practice", choices=("on", "off"), help="[on if the base has practised]")
    parser.add_argument("--limit", type=int, default=24, help="rows held out, and scored")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of bases, separated by commas: %(default)s")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    results, held = given.out / "results.jsonl", given.out / "held.jsonl"
    rows = load_rows([Path(__file__).parents[1] / "examples" / f"actions_{given.lang}.csv"])
    for file, part in zip((given.out / "train.jsonl", held), split(rows, given.limit / len(rows), SEED), strict=True):
        write_rows(file, part)
    print(f"{len(rows)} rows, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    texts = results.read_text(encoding="utf-8").splitlines() if results.is_file() else []
    lines: list[dict[str, Any]] = [json.loads(text) for text in texts]
    for kind in given.kinds.split(","):
        done = {line["way"] for line in lines if line["kind"] == kind}
        if done >= set(ways(kind)):
            continue
        for line in measured(kind, given, held, done):
            lines.append(line)
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
    show(lines)


if __name__ == "__main__":
    main()
