"""What the batch loop and the prefix store save. `python benchmarks/decode_speed.py [RUN|BASE...] [--rows 32]`.

One process, sides in turn, medians of the rounds; with one thread CPU seconds, which other processes disturb less.
Ratios for each model:

* `batch`: answers per second of `LocalEngine.generate` against transformers' `generate`, row by row. All rows ask with
  the same list, both sides write the same number of tokens without a constraint; the texts are compared.
* `constraint`: the same batch with the constraint against the batch without it.
* `first token`: a question with a list that was asked with before, against one with a new store; for a shorter and a
  longer list.
* `choice`: scoring 12 listed names at a tag against one step of the answer.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from actune.actor import Actor, load_actor
from actune.engine.local import Request
from actune.engine.prefix import PrefixStore
from actune.engine.slots import kept, seeded
from actune.engine.tree import grow, path, score

EXAMPLES = Path(__file__).parent.parent / "examples"
TOKENS = 40


def questions(language: str) -> list[str]:
    with (EXAMPLES / f"actions_{language}.csv").open(encoding="utf-8-sig", newline="") as file:
        return [row[1] for row in csv.reader(file)][1:]


def names(language: str, count: int) -> list[str]:
    with (EXAMPLES / f"actions_{language}.csv").open(encoding="utf-8-sig", newline="") as file:
        cells = [row[0] for row in csv.reader(file)][1:]
    return list(dict.fromkeys(name.strip() for cell in cells for name in cell.split("、") if name.strip()))[:count]


def clock() -> float:
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def seconds(work: Callable[[], object]) -> float:
    begun = clock()
    work()
    return clock() - begun


def row_by_row(actor: Actor, requests: list[Request]) -> list[list[int]]:
    answers = []
    for request in requests:
        ids = torch.tensor([request.prompt])
        with torch.inference_mode():
            whole = actor.engine.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=request.max_tokens,
                do_sample=False,
                pad_token_id=0,
                eos_token_id=list(actor.engine.stop_ids),
            )
        answers.append(whole[0, ids.shape[1] :].tolist())
    return answers


def batched(actor: Actor, requests: list[Request]) -> list[list[int]]:
    actor.engine.prefixes = PrefixStore(256)
    return actor.engine.generate(requests, batch_size=16)


def report(label: str, slow: list[float], fast: list[float], extra: str = "") -> None:
    ratios = [one / other for one, other in zip(slow, fast, strict=True)]
    print(
        f"  {label:<12} {statistics.median(ratios):5.2f}x  ({min(ratios):.2f}-{max(ratios):.2f}; "
        f"{statistics.median(slow):.3f} s against {statistics.median(fast):.3f} s) {extra}",
        flush=True,
    )


def measure_batch(actor: Actor, language: str, rows: int, rounds: int) -> None:
    catalogue = names(language, 24)
    prompts = [actor.prompt_ids(question, catalogue) for question in questions(language)[:rows]]
    free = [Request(prompt, None, TOKENS) for prompt in prompts]
    tied = [replace(request, names=tuple(catalogue)) for request in free]
    print(f"  {rows} rows, {len(catalogue)} names, {max(map(len, prompts))} prompt tokens, {TOKENS} new")
    alone, together, listed = [], [], []
    same = 0
    for _ in range(rounds):
        answers: list[list[list[int]]] = [[], []]
        alone.append(seconds(lambda kept=answers: kept[0].extend(row_by_row(actor, free))))
        together.append(seconds(lambda kept=answers: kept[1].extend(batched(actor, free))))
        listed.append(seconds(lambda: batched(actor, tied)))
        same = sum(one == other for one, other in zip(*answers, strict=True))
    report("batch", alone, together, f"{same} of {rows} texts equal")
    report("constraint", listed, together, "(1.00 is free of cost; the texts differ)")


def measure_first_token(actor: Actor, language: str, count: int, rounds: int) -> None:
    catalogue = names(language, count)
    asked = [Request(actor.prompt_ids(question, catalogue), None, 1) for question in questions(language)]
    cold, warm = [], []
    for one, other in itertools.islice(itertools.pairwise(asked), 2 * rounds):
        actor.engine.prefixes = PrefixStore(256)
        next(actor.engine.stream(one))
        warm.append(seconds(lambda other=other: next(actor.engine.stream(other))))
        actor.engine.prefixes = PrefixStore(256)
        cold.append(seconds(lambda other=other: next(actor.engine.stream(other))))
    report("first token", cold, warm, f"{len(catalogue)} names, {len(asked[0].prompt)} prompt tokens")


def measure_choice(actor: Actor, language: str, rounds: int) -> None:
    engine, catalogue = actor.engine, names(language, 12)
    prompt = actor.prompt_ids(questions(language)[0], catalogue)
    _, cache, _ = engine.read(prompt)
    layers = kept(cache)
    spelled = [one for name in catalogue if (one := engine.speller.spell(name)) is not None]
    step = path(engine.speller.opening[:1])
    look, single = [], []
    for _ in range(5 * rounds):
        caches = [seeded(layers, len(prompt)) for _ in range(2)]
        tree = grow(engine.speller.opening, spelled)
        look.append(seconds(lambda tree=tree, cache=caches[0]: score(tree, engine.branch(tree.tree, cache))))
        single.append(seconds(lambda cache=caches[1]: engine.branch(step, cache)))
    report("choice", look, single, f"of a step; {len(tree.tree.tokens)} tokens in the tree")


def measure(name: str, language: str, rows: int, rounds: int) -> None:
    actor = load_actor(name, dtype="fp32")
    actor.acting = None
    print(f"{name}: {torch.get_num_threads()} threads")
    measure_batch(actor, language, rows, rounds)
    for count in (24, 96):
        measure_first_token(actor, language, count, rounds)
    measure_choice(actor, language, rounds)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=["smollm2"])
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for name in options.names:
        measure(name, "zh" if "gemma" in name or "zh" in name else "en", options.rows, options.rounds)


if __name__ == "__main__":
    main()
