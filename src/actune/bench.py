"""The command `bench`: how fast a run speaks, apart, merged and on other engines, in one process by turns."""

from __future__ import annotations

import importlib.util
import json
import platform
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actune.errors import UserError, either
from actune.say import How

if TYPE_CHECKING:
    from actune.contender import Contender
    from actune.data.rows import Row

BASE, APART, MERGED, LLAMA, PLAIN = "base", "apart", "merged", "llama_cpp", "generate"
RESULT = "bench.json"
MOST_NAMES = 40


def bench(run: str, *, rounds: int = 5, tokens: int = 48, out: Path | None = None, how: How | None = None) -> int:
    """Measure decoding and the time to the first token: base, base with the adapter apart, merged, llama.cpp.

    Medians over the rounds; ratios are medians of the ratios within each round. All stand in memory at once.
    `generate` is transformers' own loop on the base, without a constraint. With one thread (OMP_NUM_THREADS=1) times
    are seconds on the CPU, which other programs disturb less; else they are the wall's.

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
    asked = _questions(run)
    figures = _measure(contenders, asked, rounds, tokens)
    about = {"run": run, "rounds": rounds, "tokens": tokens, **_prompt(contenders[0], asked), **_machine(contenders)}
    report = {"about": about, "figures": figures, "summary": summary(figures)}
    _show(report)
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
    from actune.contender import Contender
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
    result.append(Contender(PLAIN, result[0].actor, plain=True))
    if importlib.util.find_spec("xllamacpp") is not None:
        from actune.engine.upstream import Upstream
        from actune.engines import load_elsewhere

        clean = replace(how, engine="llama_cpp", device="auto", dtype="auto", unmerged=False, quantize="auto")
        actor = load_elsewhere(run, clean)
        if isinstance(actor.engine, Upstream):
            actor.engine.extra["ignore_eos"] = True
        result.append(Contender(LLAMA, actor))
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


def _prompt(contender: Contender, asked: tuple[tuple[str, ...], list[str]]) -> dict[str, int]:
    """Tell how long a prompt is, and how much of it questions have in common."""
    names, questions = asked
    ids = [contender.actor.prompt_ids(question, names) for question in questions[:2]]
    same = next((at for at, pair in enumerate(zip(*ids, strict=False)) if len(set(pair)) > 1), min(map(len, ids)))
    return {"names": len(names), "prompt_tokens": len(ids[0]), "prefix_tokens": same}


def _machine(contenders: Sequence[Contender]) -> dict[str, Any]:
    import torch

    model = contenders[0].actor.local.model
    return {
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "seconds": "cpu" if torch.get_num_threads() == 1 else "wall",
        "torch": torch.__version__,
    }


def _show(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    rows = report["summary"]
    told = either(
        "{names} names, {prompt_tokens} prompt tokens, {prefix_tokens} of them kept; {dtype}, {threads} threads, "
        "seconds of the {seconds}",
        "{names} 个动作, 提示 {prompt_tokens} 个词元, 其中 {prefix_tokens} 个可复用; {dtype}, {threads} 线程, "
        "{seconds} 时间",
    )
    table = Table(title=told.format(**report["about"]), title_justify="left")
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
