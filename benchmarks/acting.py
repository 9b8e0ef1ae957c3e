"""What each lift of acting brings. Can be interrupted and run again: what is done is skipped.

    python benchmarks/acting.py --base smollm2 --lang en --public PUBLIC.jsonl --out runs/acting --budget 60

Rows: `examples/actions_LANG.csv`, one fifth of them held out, and choice rows made by other people (`--public`, of one
language), which are never trained on. The *choosing* part is the hold-out and 240 public rows, stratified by source
over both languages; whatever is decided is decided there. The *reporting* part is the rest of the public rows. Parts
are fixed by the SHA-256 of a row's id (or question).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch

from actune import prompt
from actune.actor import load_actor
from actune.data import augment
from actune.data.load import load_rows
from actune.data.rows import Row
from actune.evaluate.bootstrap import Estimate, Resampled
from actune.script.events import Act
from actune.script.parser import parse
from actune.script.score import Outcome, tally
from actune.tune import corpus, hold, split
from actune.tune import practice as practising
from actune.tune.command import WRITTEN_LAST, train
from actune.tune.options import TrainOptions

CHOOSING, HOLD_OUT, MOST_TOKENS, BATCH, CHUNK, SEED = 240, 0.2, 64, 16, 64, 1
OWN = ("hold-out", "unpractised")
SHOWN = ("f1", "precision", "recall", "exact_act", "none_right", "order", "repeat", "valid")
FOLDER = str.maketrans({" ": "-", "/": "over", "*": "x"})
# What an actor is asked without: all that calibration set, the constraint, or one of the lifts of decoding.
HOWS: dict[str, dict[str, Any]] = {
    "used": {},
    "neutral": {},
    "free": {},
    "-gate": {"gate": None},
    "-channel": {"channel": 0.0, "heard": 0.0},
    "-gamma": {"gamma": 0.0},
    "-stop": {"repeats": True},
}
SIMPLE = TrainOptions(practice="off")
PRACTISED = TrainOptions(practice="on")


@dataclass(frozen=True)
class Variant:
    """Something to measure.

    Args:
        options: None for the base.
        lifts: Of its rows.
        remember: Weight of the distance from the base's answers to general questions.
        told: Questions trained at a step after the actions that they want.
        bare: Start from the bare base, though it may have practised.
    """

    options: TrainOptions | None
    lifts: frozenset[augment.Lift] = augment.LIFTS
    remember: float = hold.WEIGHT
    told: int = hold.TOLD
    bare: bool = False


VARIANTS = {
    "base": Variant(None),
    "simple": Variant(SIMPLE, frozenset()),
    "rehearsed": Variant(TrainOptions(), bare=True),
    "practice": Variant(PRACTISED, frozenset()),
    **{f"practice +{lift}": Variant(PRACTISED, frozenset({lift})) for lift in sorted(augment.ALL_LIFTS)},
    "practice -told": Variant(PRACTISED, frozenset(), told=0),
    "practice +all": Variant(PRACTISED, augment.ALL_LIFTS),
    "practice -remember": Variant(PRACTISED, frozenset(), remember=0.0),
    "practice remember*3": Variant(PRACTISED, frozenset(), remember=6.0),
    "kept": Variant(TrainOptions()),
}


def rank(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def wanted_of(row: Row) -> tuple[str, ...]:
    return row.expected if row.expected is not None else augment.all_actions(row)


def parted(rows: Sequence[Row], taken: int, kind: Callable[[Row], str], key: Callable[[Row], str]) -> Iterator[bool]:
    """Say of each row whether it is among `taken` of them, of each kind by its share."""
    kinds: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        kinds[kind(row)].append(row)
    quota = split.quotas({name: len(members) for name, members in kinds.items()}, taken)
    chosen = {
        id(row)
        for name, members in kinds.items()
        for row in sorted(members, key=lambda row: rank(key(row)))[: quota[name]]
    }
    return (id(row) in chosen for row in rows)


@dataclass(frozen=True)
class Data:
    train: list[Row]
    asked: dict[str, list[Row]]
    """Rows of each part by name."""


def read(table: Path, public: Path, more: Path | None, lang: str) -> Data:
    own = load_rows([table])
    held = list(
        parted(own, round(HOLD_OUT * len(own)), lambda row: str(min(3, len(wanted_of(row)))), lambda row: row.question)
    )
    others = load_rows([public])
    first = list(parted(others, CHOOSING, lambda row: row.source, lambda row: row.id))
    here = [(row, chosen) for row, chosen in zip(others, first, strict=True) if row.lang == lang]
    # Those with lists that were not practised either, trainings calibrate on.
    known = {row.question for row in corpus.unseen({"folder": str(more.parent)}, lang)} if more else set()
    kept = [row for row in (load_rows([more]) if more else ()) if row.question not in known]
    unseen = [replace(row, source="unpractised") for row in kept]
    hold_out = [replace(row, source="hold-out") for row, out in zip(own, held, strict=True) if out]
    return Data(
        [row for row, out in zip(own, held, strict=True) if not out],
        {
            "choosing": hold_out
            + [row for row in unseen if prompt.language_of([row.question]) == lang]
            + [row for row, chosen in here if chosen],
            "reporting": [row for row, chosen in here if not chosen],
        },
    )


@contextmanager
def lifted(variant: Variant) -> Iterator[None]:
    """Let trainings use a variant's lifts."""
    before = augment.LIFTS, hold.WEIGHT, hold.TOLD, practising.start_of
    augment.LIFTS, hold.WEIGHT, hold.TOLD = variant.lifts, variant.remember, variant.told
    if variant.bare:
        practising.start_of = lambda *_: {}
    try:
        yield
    finally:
        augment.LIFTS, hold.WEIGHT, hold.TOLD, practising.start_of = before


def trained(name: str, variant: Variant, base: str, lang: Literal["en", "zh"], rows: Path, out: Path) -> str:
    """Train a variant, unless that is done; return what to load."""
    if variant.options is None:
        return base
    run = out / "runs" / name.translate(FOLDER)
    if not (run / WRITTEN_LAST).is_file():
        with lifted(variant):
            # A variant practises as it trains; what has practised so already is in the cache.
            if variant.options.practice != "off" and not variant.bare and practising.practice(base=base, language=lang):
                raise KeyboardInterrupt
            status = train([rows], base=base, out=run, options=variant.options, resume=(run / "actune.json").is_file())
        if status:
            raise KeyboardInterrupt
        for checkpoint in run.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    return str(run)


def answered(run: str, rows: Sequence[Row], how: str) -> list[dict[str, Any]]:
    """Answer rows as a user would be, or without one of `HOWS`; give each row's part of every score."""
    actor = load_actor(run, free=how == "free")
    actor.acting = None if how == "neutral" or actor.acting is None else replace(actor.acting, **HOWS[how])
    requests = [
        actor.request(row.question, row.actions, row.history, row.system, max_tokens=MOST_TOKENS) for row in rows
    ]
    order = sorted(range(len(rows)), key=lambda index: len(requests[index].prompt))
    result: dict[int, dict[str, Any]] = {}
    for first in range(0, len(order), CHUNK):
        some = order[first : first + CHUNK]
        for index, tokens in zip(some, actor.engine.generate([requests[index] for index in some], BATCH), strict=True):
            row, reader = rows[index], actor.reader(rows[index].actions)
            events = tuple(event for token in tokens for event in reader.feed(token)) + tuple(reader.close())
            reference = tuple(parse(row.script)) if row.script else None
            ordered = row.ordered or row.expected is None
            parts = tally(Outcome(wanted_of(row), ordered, row.actions, events, reference))
            written = [event.name for event in events if isinstance(event, Act)]
            result[index] = {"id": row.id or row.question, "source": row.source, "parts": parts, "written": written}
    return [result[index] for index in range(len(rows))]


def results(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def told(estimate: Estimate) -> str:
    if estimate.value is None:
        return f"{'-':>17}"
    return f"{estimate.value:5.2f} {estimate.low:5.2f}..{estimate.high:4.2f}"


def show(done: Sequence[dict[str, Any]], part: str) -> None:
    """Print scores with 95 % intervals, and the paired difference of f1 to the simple recipe."""
    lines = [line for line in done if line["part"] == part]
    groups = sorted({row["source"] for line in lines for row in line["rows"]})
    for group in ["public", *groups]:
        print(f"\n{part}, {group}\n{'':28}" + "".join(f"{name:>18}" for name in SHOWN) + f"{'f1 - simple':>18}")
        sample: dict[str, Resampled] = {}
        for line in lines:
            rows = [r for r in line["rows"] if r["source"] == group or (group == "public" and r["source"] not in OWN)]
            if rows:
                sample[line["name"]] = Resampled([row["parts"] for row in rows], SEED)
        for name, one in sample.items():
            values = one.estimates()
            row = f"{name:28}" + "".join(" " + told(values[metric]) for metric in SHOWN)
            way = next((f" {how}" for how in HOWS if name.endswith(f" {how}")), "")
            simple = sample.get(f"simple{way}")
            print(row + (" " + told(one.minus(simple)["f1"]) if simple else ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="smollm2")
    parser.add_argument("--lang", choices=("en", "zh"), default="en")
    parser.add_argument("--public", type=Path, required=True, help="choice rows of other people")
    parser.add_argument("--more", type=Path, help="valid.jsonl of the practice; what is calibrated on is left out")
    parser.add_argument("--out", type=Path, default=Path("runs/acting"))
    parser.add_argument("--part", choices=("choosing", "reporting"), default="choosing")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="names, separated by commas: %(default)s")
    parser.add_argument("--how", default="used", help=f"names, separated by commas, of {', '.join(HOWS)}: %(default)s")
    parser.add_argument("--budget", type=float, default=240, help="minutes after which nothing new is begun")
    parser.add_argument("--limit", type=int, help="rows of the part asked, of each source by its share")
    parser.add_argument("--threads", type=int, help="of torch")
    given = parser.parse_args()
    if unknown := set(given.how.split(",")) - HOWS.keys():
        parser.error(f"--how: {', '.join(unknown)} is none of {', '.join(HOWS)}")
    if given.threads:
        torch.set_num_threads(given.threads)
    out = given.out / f"{Path(given.base).name}-{given.lang}"
    out.mkdir(parents=True, exist_ok=True)
    table = Path(__file__).parents[1] / "examples" / f"actions_{given.lang}.csv"
    run(given, out, read(table, given.public, given.more, given.lang))


def run(given: argparse.Namespace, out: Path, data: Data) -> None:
    from actune.tune.run import write_rows

    begun, file, rows = time.monotonic(), out / "results.jsonl", out / "train.jsonl"
    asked = data.asked[given.part]
    if given.limit:
        chosen = parted(asked, given.limit, lambda row: row.source, lambda row: row.id or row.question)
        asked = [row for row, some in zip(asked, chosen, strict=True) if some]
    write_rows(rows, data.train)
    for name, how in product(filter(None, given.variants.split(",")), given.how.split(",")):
        key = {"part": given.part, "name": name if how == "used" else f"{name} {how}"}
        if any(line.items() >= key.items() for line in results(file)):
            continue
        if time.monotonic() - begun > 60 * given.budget:
            print(f"the budget is spent; left: {name} and what follows")
            break
        start = time.monotonic()
        place = trained(name, VARIANTS[name], given.base, given.lang, rows, out)
        middle = time.monotonic()
        answers = answered(place, asked, how)
        seconds = {"train": round(middle - start), "ask": round(time.monotonic() - middle)}
        with file.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps({**key, "seconds": seconds, "rows": answers}, ensure_ascii=False) + "\n")
        print(f"{key['name']}: {seconds}", flush=True)
    show(results(file), given.part)


if __name__ == "__main__":
    main()
