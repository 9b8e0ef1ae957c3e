"""What the constraint costs: medians of set-up, compile, mask and step. `python benchmarks/constraint.py [BASE...]`.

A base is whatever `actune train --base` takes; without one, a byte vocabulary of 50 000 random tokens is used.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from actune.script.grammar import Grammar
from actune.script.vocabulary import Vocabulary

COUNTS = (4, 64, 512, 2_000)


def names_of(count: int) -> list[str]:
    return [f"类别{i % 9}-动作{i}" if i % 2 else f"kind{i % 7}-do thing {i}" for i in range(count)]


def micros(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e6


def random_vocabulary() -> Vocabulary:
    random = np.random.default_rng(0)
    data: list[bytes | None] = [bytes((byte,)) for byte in range(256)]
    data += [random.integers(32, 127, random.integers(2, 7)).astype(np.uint8).tobytes() for _ in range(50_000)]
    return Vocabulary(data, len(data) + 1, [len(data)])


def base_vocabulary(name: str) -> Vocabulary:
    from actune.base.load import load_tokenizer
    from actune.base.source import resolve

    path = Path(resolve(name).path)
    tokenizer = load_tokenizer(path)
    size = json.loads((path / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    start = time.perf_counter()
    vocabulary = Vocabulary.from_tokenizer(tokenizer, size, [tokenizer.eos_token_id])
    print(f"{name}: {size} tokens, set-up {time.perf_counter() - start:.2f} s once a model")
    return vocabulary


def walk(grammar: Grammar, opening: list[int], random: np.random.Generator) -> list[tuple[int, int]]:
    """Open a tag and write a random way through it: (state, token) of each step."""
    state, steps = grammar.start, []
    waiting = list(opening)
    while waiting or grammar.inside(state):
        token = waiting.pop(0) if waiting else int(random.choice(np.flatnonzero(grammar.mask(state))))
        steps.append((state, token))
        state = grammar.step(state, token)
    return steps


def a_step(grammar: Grammar, steps: list[tuple[int, int]]) -> float:
    """Time a whole way: the clock itself takes as long as a step."""
    step = grammar.step
    start = time.perf_counter()
    for state, token in steps:
        step(state, token)
    return (time.perf_counter() - start) / len(steps) * 1e6


def measure(vocabulary: Vocabulary, count: int) -> None:
    names = names_of(count)
    compiled = statistics.median(micros(lambda: Grammar(vocabulary, names)) for _ in range(5)) / 1e3
    guide, grammar, random = Grammar(vocabulary, names), Grammar(vocabulary, names), np.random.default_rng(count)
    opening = [vocabulary.ids[vocabulary.keys.index(key)][0] for key in (b"<", b"&")]
    words = [(0, int(token)) for token in random.choice(np.flatnonzero(vocabulary.ordinary), 200)]
    words = [(0, token) for _, token in words if b"<" not in (vocabulary.token_bytes[token] or b"")]
    first, again, tight, tags = [], [], [], []
    seen: set[int] = set()
    # Grammars number their states alike, so one that has seen nothing can go the ways that another found.
    for steps in (walk(guide, opening, random) for _ in range(40)):
        for state, _ in steps:
            made = micros(lambda state=state: grammar.mask(state))
            (again if state in seen else first).append(made)
            seen.add(state)
            tight.append(micros(lambda state=state: grammar.mask(state, 4)))
        tags.append(a_step(grammar, steps))
    fresh = Grammar(vocabulary, names)
    root = micros(lambda: fresh.mask(2))
    fresh = Grammar(vocabulary, names)
    way = micros(lambda: fresh.mask(2, 2)) / 1e3
    print(
        f"  N={count:<5} compile {compiled:7.2f} ms | mask {statistics.median(again):5.1f} us, new state "
        f"{statistics.median(first):6.1f} us, after <& {root:7.1f} us | budget nearly spent "
        f"{statistics.median(tight):6.1f} us, worst {way:6.2f} ms | step in words {a_step(grammar, words):5.2f} us, "
        f"in tags {statistics.median(tags):5.2f} us"
    )


def main() -> None:
    for name in sys.argv[1:] or ["random"]:
        vocabulary = random_vocabulary() if name == "random" else base_vocabulary(name)
        for count in COUNTS:
            measure(vocabulary, count)


if __name__ == "__main__":
    main()
