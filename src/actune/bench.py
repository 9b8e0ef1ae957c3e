"""The command `bench`: how fast a run speaks, apart, merged and on other engines, in one process by turns."""

from __future__ import annotations

import importlib.util
import json
import platform
import statistics
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actune.errors import UserError, either
from actune.say import How

if TYPE_CHECKING:
    from actune.actor import Actor
    from actune.data.rows import Row
    from actune.engine.local import Request

BASE, APART, MERGED, LLAMA = "base", "apart", "merged", "llama_cpp"
RESULT = "bench.json"
MOST_NAMES, PREFIX_MB = 12, 256


@dataclass
class Contender:
    """Something that is measured.

    Args:
        name: `base`, `apart` (base + adapter), `merged`, `llama_cpp`.
        actor: It.
    """

    name: str
    actor: Actor

    @property
    def extra(self) -> dict[str, Any]:
        """What llama.cpp is asked besides; see `Upstream.extra`."""
        from actune.engine.upstream import Upstream

        return self.actor.engine.extra if isinstance(self.actor.engine, Upstream) else {}

    def caching(self, on: bool) -> None:
        """Let prompts be remembered, from now on, or not."""
        from actune.engine.prefix import PrefixStore

        if self.name == LLAMA:
            self.extra["cache_prompt"] = on
        else:
            self.actor.local.prefixes = PrefixStore(PREFIX_MB if on else 0)

    def first(self, request: Request) -> float:
        """Measure the time to the first token, in ms."""
        begun = time.perf_counter()
        with closing(_ticks(self.actor, replace(request, max_tokens=1))) as ticks:
            next(ticks)
        return (time.perf_counter() - begun) * 1000

    def speed(self, request: Request) -> float:
        """Measure tokens a second, from the first to the last."""
        ticks = list(_ticks(self.actor, request))
        return (sum(count for _, count in ticks) - ticks[0][1]) / (ticks[-1][0] - ticks[0][0])


def _ticks(actor: Actor, request: Request) -> Generator[tuple[float, float]]:
    """Yield when tokens came, and how many."""
    text = b""
    came: list[float] = []
    for token in actor.engine.stream(request):
        if isinstance(token, bytes):
            text += token
            came.append(time.perf_counter())
            yield came[-1], 0.0
        else:
            yield time.perf_counter(), 1.0
    if came:
        # Pieces of text may hold several tokens: they are counted by the tokenizer at the end.
        yield came[-1], float(len(actor.tokenizer(text.decode(), add_special_tokens=False)["input_ids"]))


def bench(run: str, *, rounds: int = 5, tokens: int = 48, out: Path | None = None, how: How | None = None) -> int:
    """Measure decoding and the time to the first token: base, base with the adapter apart, merged, llama.cpp.

    Medians over the rounds; ratios are medians of the ratios within each round. All stand in memory at once.

    Args:
        run: A run, a checkpoint, a merged folder, or a base.
        rounds: Each one asks everything once, another question each time.
        tokens: Length of each answer; none ends earlier.
        out: File for the figures as JSON [RUN/bench.json; none for a base].
        how: How it is loaded; the sampling is greedy.

    Returns:
        Exit status 0.

    Raises:
        UserError: An impossible number, or see `actor.load_actor`.
    """
    if rounds < 1 or tokens < 2:
        wanted = "--rounds >= 1, --tokens >= 2"
        raise UserError("--rounds, --tokens", f"{rounds}, {tokens}", wanted, either("change them", "修改它们"))
    how = (how or How()).checked()
    contenders = _contenders(run, how)
    figures = _measure(contenders, _questions(run), rounds, tokens)
    about = {"run": run, "rounds": rounds, "tokens": tokens, **_machine(contenders)}
    report = {"about": about, "figures": figures, "summary": summary(figures)}
    _show(report["summary"])
    file = out or (Path(run) / RESULT if _is_ours(run) else None)
    if file is not None:
        from actune.tune.run import write_whole

        write_whole(file, json.dumps(report, ensure_ascii=False, indent=1) + "\n")
        print(file)
    return 0


def _is_ours(run: str) -> bool:
    from actune.tune.run import MANIFEST

    return (Path(run) / MANIFEST).is_file()


def _contenders(run: str, how: How) -> list[Contender]:
    from actune.actor import Actor
    from actune.found import find
    from actune.say import load

    found = find(run)
    ways = [(MERGED if found.manifest else BASE, run, replace(how, unmerged=False))]
    if found.tuned:
        base = str(found.model(how.base))
        ways = [(BASE, base, replace(how, base=None)), (APART, run, replace(how, unmerged=True)), *ways]
    result = []
    for name, given, one in ways:
        actor = load(given, replace(one, engine="local"))
        # Without stop ids an answer has its full length; with the run's format all read the same prompt.
        engine = type(actor.local)(actor.local.model, actor.tokenizer, ())
        result.append(Contender(name, Actor(engine, found.format)))
    if importlib.util.find_spec("xllamacpp") is not None:
        from actune.engines import load_elsewhere

        clean = replace(how, engine="llama_cpp", device="auto", dtype="auto", unmerged=False, quantize="auto")
        contender = Contender(LLAMA, load_elsewhere(run, clean))
        contender.extra["ignore_eos"] = True
        result.append(contender)
    return result


def _questions(run: str) -> tuple[tuple[str, ...], list[str]]:
    """Choose a list of actions, and questions that all come with it: what is remembered is the list."""
    from actune.data.load import load_rows
    from actune.demo import example
    from actune.tune.run import PARITY

    file = next((place / PARITY for place in (Path(run), Path(run).parent) if (place / PARITY).is_file()), None)
    rows: Sequence[Row] = load_rows([file or example(f"actions_{either('en', 'zh')}.csv")])
    names = dict.fromkeys(name for row in rows for name in row.actions)
    return tuple(names)[:MOST_NAMES], list(dict.fromkeys(row.question for row in rows))


def _measure(
    contenders: Sequence[Contender], asked: tuple[tuple[str, ...], list[str]], rounds: int, tokens: int
) -> dict[str, dict[str, list[float]]]:
    names, questions = asked
    figures: dict[str, dict[str, list[float]]] = {
        contender.name: {"tokens_per_s": [], "cold_ms": [], "warm_ms": []} for contender in contenders
    }
    for turn in range(-1, rounds):
        # Who is first changes; the round before the first warms up and is not counted.
        for contender in (*contenders[max(turn, 0) % len(contenders) :], *contenders[: max(turn, 0) % len(contenders)]):
            one, other = (questions[(2 * turn + step) % len(questions)] for step in (0, 1))
            known, new = (contender.actor.request(text, names, max_tokens=tokens) for text in (one, other))
            contender.caching(False)
            cold = contender.first(new)
            contender.caching(True)
            contender.first(known)
            warm = contender.first(new)
            speed = contender.speed(known)
            if turn >= 0:
                for key, value in (("tokens_per_s", speed), ("cold_ms", cold), ("warm_ms", warm)):
                    figures[contender.name][key].append(value)
    return figures


def summary(figures: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    """Sum up: medians, and medians of the ratios within each round.

    Args:
        figures: For each contender, the base or the only one first, its values by round.

    Returns:
        For each contender ``tokens_per_s``, ``of_first`` (its speed / that of the first), ``cold_ms``, ``warm_ms``,
        and ``sooner`` (cold / warm).
    """
    first = next(iter(figures.values()))["tokens_per_s"]

    def ratio(one: Sequence[float], other: Sequence[float]) -> float:
        return statistics.median(a / b for a, b in zip(one, other, strict=True))

    return {
        name: {
            **{key: statistics.median(values) for key, values in each.items()},
            "of_first": ratio(each["tokens_per_s"], first),
            "sooner": ratio(each["cold_ms"], each["warm_ms"]),
        }
        for name, each in figures.items()
    }


def _machine(contenders: Sequence[Contender]) -> dict[str, Any]:
    import torch

    model = contenders[0].actor.local.model
    return {
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _show(rows: dict[str, dict[str, float]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=either("speed", "速度"), title_justify="left")
    first = next(iter(rows))
    heads = (
        "",
        either("tokens/s", "词元/秒"),
        f"/ {first}",
        either("first token, ms", "首个词元, 毫秒"),
        either("with prefix cache", "有前缀缓存"),
        either("times sooner", "快几倍"),
    )
    for head in heads:
        table.add_column(head, justify="left" if not head else "right")
    for name, row in rows.items():
        table.add_row(
            name,
            f"{row['tokens_per_s']:.1f}",
            f"{row['of_first']:.2f}",
            f"{row['cold_ms']:.0f}",
            f"{row['warm_ms']:.0f}",
            f"{row['sooner']:.1f}",
        )
    Console().print(table)
