"""The command `plan`: what a training needs and takes, for every way to hold the base; nothing is loaded."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from actune.errors import either
from actune.tune.options import Settings, TrainOptions, read_config, settle

if TYPE_CHECKING:
    from actune.tune.memory import Need
    from actune.tune.plan import Survey

KINDS = ("fp32", "bf16", "8bit", "4bit")


@dataclass(frozen=True)
class Way:
    """One way to hold the base and to compute.

    Args:
        kind: One of `KINDS`.
        twice: Layers are computed twice.
        need: Its memory.
        seconds: Its time.
        taken: Training would go this way, of the two of its kind.
        survey: The rows in tokens.
    """

    kind: str
    twice: bool
    need: Need
    seconds: float
    taken: bool
    survey: Survey


def plan(
    data: list[Path],
    *,
    base: str,
    options: TrainOptions | None = None,
    config: Path | None = None,
    encoding: str | None = None,
    source: str = "hub",
    trust_remote_code: bool = False,
) -> int:
    """Tell what a training would need and take, before anything is loaded; takes the options of `train`.

    Args:
        data: Tables: .csv, .tsv, .xlsx, .jsonl.
        base: The base: a folder, a hub id or a bundled name. Its configuration and tokenizer are enough.
        options: What is set differently from the recipe.
        config: YAML file with the same options; the command line wins.
        encoding: Encoding of text tables, if it cannot be found out.
        source: Where hub ids are looked up: hub or modelscope.
        trust_remote_code: Run Python code that comes with the base.

    Returns:
        Exit code: 0 if some way fits on this machine, 1 if none does.

    Raises:
        UserError: Data, options or base cannot be used.
    """
    from actune.base.load import pick_device
    from actune.base.source import described
    from actune.data.load import load_rows
    from actune.tune import memory
    from actune.tune.prepare import read

    given = options or TrainOptions()
    settings = settle(given, *([read_config(config)] if config else []))
    some = read(load_rows(data, encoding), described(base, source), settings, None, trust_remote_code)
    device = pick_device(settings.device)
    there = memory.free(device)
    ways = reckon(some, settings, device, there, trust_remote_code)
    console = Console(width=None if Console().is_terminal else 140)
    wanted = _wanted(settings, device, ways)
    _show(console, _told(some, settings, ways, device, there, wanted), ways, there)
    proposed = _proposed(ways, wanted, there)
    if proposed is None:
        least = min(way.need.bytes for way in ways) / 1e9
        console.print(
            either(
                f"nothing fits: the least takes {least:.1f} GB. A smaller base, --batch-size 1, or a larger machine",
                f"都放不下: 最少需 {least:.1f} GB。请换更小的基座, --batch-size 1, 或更大的机器",
            ),
            highlight=False,
        )
        return 1
    words = ["actune", "train", *map(str, data), "--base", base, *_written(given), *proposed[1], "--out", "RUN"]
    words += ["--config", str(config)] if config else []
    console.print(either("what fits:", "放得下的:"), shlex.join(words), markup=False, highlight=False, soft_wrap=True)
    return 0


def _wanted(settings: Settings, device: Any, ways: list[Way]) -> str:
    """Tell how training would hold the base if it is left alone."""
    from actune.base.load import pick_dtype, word_of

    if settings.quantize:
        return settings.quantize
    return "bf16" if any(way.need.begin for way in ways) else word_of(pick_dtype(device, settings.dtype))


def _told(some: Any, settings: Settings, ways: list[Way], device: Any, there: int, wanted: str) -> list[str]:
    """Say what does not hang on how the base is held."""
    from actune.tune import plan

    way = ways[0]
    count, survey, step = plan.counted(some.train, len(some.valid), settings), way.survey, way.need.step
    batch = "x".join(map(str, survey.largest["input_ids"].shape))
    disk = (3 * 12 + 4) * step.trained / 1e6  # adapter and Adam's moments of three checkpoints, adapter on top
    left = settings.dtype == "auto" and not settings.quantize
    room = any(_fits(way, there) for way in ways if way.kind == wanted)
    held = either(f"train here holds the base in {wanted}", f"本机训练以 {wanted} 持有基座")
    without = "" if room else either(", for which there is no room", ", 但内存不够")
    return [
        either(
            f"base     {step.parameters:,} parameters; trained: {step.trained:,}",
            f"基座   参数 {step.parameters:,}; 训练 {step.trained:,}",
        ),
        either(
            f"rows     {count.rows} trained, {count.valid} kept; {survey.tokens:,} tokens in {count.steps} steps, "
            f"{survey.trained:,} of them learnt; largest batch {batch}",
            f"数据   训练 {count.rows} 行, 验证 {count.valid} 行; {count.steps} 步共 {survey.tokens:,} 词元, "
            f"其中学习 {survey.trained:,} 个; 最大批 {batch}",
        ),
        either(
            f"{device} has {there / 1e9:.1f} GB free; the run takes {disk:.0f} MB on the disk",
            f"{device} 空闲 {there / 1e9:.1f} GB; 结果占磁盘 {disk:.0f} MB",
        ),
        *([f"{held}{without}"] if left else []),
        either(
            "GB at the worst moment; `twice`: layers are computed twice; *: so train does it by itself",
            "峰值 GB; 重算: 每层算两次; *: train 自动选择",
        ),
    ]


def reckon(some: Any, settings: Settings, device: Any, there: int, trust: bool = False) -> list[Way]:
    """Reckon every way; the base and the rows are the same.

    Args:
        some: Of `prepare.read`.
        settings: The run's.
        device: Where it would train.
        there: Bytes free on it.
        trust: Run the base's own code.
    """
    from actune.base.load import DTYPES, pick_dtype
    from actune.tune import memory, plan

    ways, stored = list[Way](), some.config.dtype
    survey = plan.survey(some.train, settings)
    count = plan.counted(some.train, len(some.valid), settings)
    for kind in KINDS:
        held = kind if kind in ("8bit", "4bit") else None
        dtype = DTYPES[kind] if held is None else pick_dtype(device, settings.dtype)
        these = replace(settings, quantize=held)
        once, spared = (plan.needed(survey, these, some.config, device, dtype, trust, twice) for twice in (False, True))
        if kind == KINDS[0]:
            whole = once
        if kind == "bf16" and plan.narrows(these, some.config, device, DTYPES[KINDS[0]], whole.step.how, trust):
            both = [plan.rounded(whole.step.weights, half, survey, some.config, stored) for half in (once, spared)]
            # A base that cannot be there in both forms at once can still be read in this one, if the user says so.
            if min(need.bytes for need in both) <= there:
                once, spared = both
        taken = memory.recomputes(once, these, once.step.how == "fast", device)
        for twice, need in ((False, once), (True, spared)):
            time = plan.seconds(count, survey, need, device, dtype)
            ways.append(Way(kind, twice, need, time, twice == taken, survey))
    return ways


def _fits(way: Way, there: int) -> bool:
    return way.need.bytes <= there


def _proposed(ways: list[Way], wanted: str, there: int) -> tuple[Way, list[str]] | None:
    """Choose the first way that fits, the wanted kind first, and write what it takes on the command line."""
    order = sorted(ways, key=lambda way: (way.kind != wanted, KINDS.index(way.kind)))
    way = next((way for way in order if way.taken and _fits(way, there)), None)
    if way is None:
        return None
    if way.kind == wanted:
        return way, []
    return way, ["--quantize" if way.kind in ("8bit", "4bit") else "--dtype", way.kind]


def _written(options: TrainOptions) -> list[str]:
    """Write options as they are given on the command line."""
    words: list[str] = []
    for field in fields(options):
        value, name = getattr(options, field.name), f"--{field.name.replace('_', '-')}"
        if value is not None:
            words += [name] if value is True else [f"--no-{name[2:]}"] if value is False else [name, str(value)]
    return words


def _show(console: Console, lines: list[str], ways: list[Way], there: int) -> None:
    """Print the table, in GB."""
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    en = "held,twice,path,weights,adapter,optimiser,activations,logits,process,at first,in all,fits,time"
    zh = "权重,重算,路径,权重,适配器,优化器,激活,logits,进程,开始时,合计,放得下,时间"
    table = Table(*either(en, zh).split(","), box=None, pad_edge=False)
    for way in ways:
        need, step = way.need, way.need.step
        parts = [step.weights, need.adapter, need.optimiser, step.activations, step.logits, need.runtime]
        parts += [need.begin + need.runtime if need.begin else 0, need.bytes]
        yes, no = either("yes", "是"), either("no", "否")
        fits = (yes if _fits(way, there) else no) + ("*" if way.taken else "")
        table.add_row(
            way.kind, yes if way.twice else no, step.how, *(f"{part / 1e9:.2f}" for part in parts), fits, _clock(way)
        )
    console.print(table)


def _clock(way: Way) -> str:
    minutes = way.seconds / 60
    return f"{minutes:.1f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
