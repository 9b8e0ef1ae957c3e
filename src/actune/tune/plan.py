"""What a training will do and need, printed before it starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from actune.base.rates import speed
from actune.engine import logits
from actune.errors import either
from actune.tune import hold, memory, remember
from actune.tune.dataset import RowDataset, collate
from actune.tune.encode import IGNORE, Example
from actune.tune.exam import MOST_ROWS
from actune.tune.fast.proof import ROWS, bf16_pays
from actune.tune.memory import Need
from actune.tune.options import Settings
from actune.tune.rehearse import blank

CHECKPOINTS = 8
# Rows encoded at most to find the largest batch and count tokens; beyond them the first epochs stand for the rest.
LOOKED_AT = 4000
# Answers are written some rows at a time: so many times as fast as alone.
TOGETHER = 4


@dataclass(frozen=True)
class Survey:
    """What the rows of a training are in tokens.

    Args:
        tokens: Computed over all epochs, padding included.
        trained: Tokens that are learnt, over all epochs.
        largest: The batch with most tokens.
    """

    tokens: int
    trained: int
    largest: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Count:
    """The size of a training in rows and steps.

    Args:
        rows: Training rows.
        valid: Validation rows.
        steps: Optimizer steps in all.
        every: Steps from one checkpoint to the next.
    """

    rows: int
    valid: int
    steps: int
    every: int


@dataclass(frozen=True)
class Plan(Count):
    """The size of a training, and what it takes.

    Args:
        survey: Its rows in tokens.
        need: Memory if layers are computed once.
        spared: Memory if they are computed twice; the same where that is not asked for.
        twice: They will be.
    """

    survey: Survey
    need: Need
    spared: Need
    twice: bool

    @property
    def taken(self) -> Need:
        """Memory of the way that is taken."""
        return self.spared if self.twice else self.need


def survey(train: RowDataset, settings: Settings) -> Survey:
    """Look at rows as training will; of many rows, at the first epochs."""
    epochs = max(1, min(settings.epochs, LOOKED_AT // max(1, len(train))))
    tokens = trained = 0
    largest: list[dict[str, Any]] = []
    for epoch in range(epochs):
        train.set_epoch(epoch)
        items = [train[place] for place in range(len(train))]
        for begin in range(0, len(items), settings.batch_size):
            batch = items[begin : begin + settings.batch_size]
            tokens += _area(batch)
            largest = max(largest, batch, key=_area)
        trained += sum(label != IGNORE for item in items for label in item["labels"])
    train.set_epoch(0)
    times = settings.epochs / epochs
    whole = _remembering(collate(largest), train) if settings.remember else collate(largest)
    return Survey(round(tokens * times), round(trained * times), whole)


def _remembering(batch: dict[str, torch.Tensor], train: RowDataset) -> dict[str, torch.Tensor]:
    """Put stand-ins under a batch: what the base answers, and which practised rows come again, is not known yet."""
    ids = torch.zeros(remember.MOST_TOKENS, remember.KEPT, dtype=torch.long)
    one = remember.Memory(logits.Text([0] * remember.MOST_TOKENS, [0] * remember.MOST_TOKENS), ids, ids.float())
    return hold.added(batch, hold.Kept([one] * hold.EACH, train, hold.Told(train.rows, train.tokenizer)), "plan")


def _area(batch: list[dict[str, Any]]) -> int:
    return len(batch) * max((len(item["input_ids"]) for item in batch), default=0)


def make_plan(
    train: RowDataset,
    valid: int,
    settings: Settings,
    config: Any,
    device: torch.device,
    dtype: torch.dtype,
    processes: int = 1,
    trust: bool = False,
) -> Plan:
    """Reckon what a training will take; nothing is loaded for it.

    Args:
        train: The training rows.
        valid: Number of validation rows.
        settings: The run's.
        config: The base's.
        device: Where it will train.
        dtype: Of the weights.
        processes: Number of processes that share the rows.
        trust: Run the base's own code.
    """
    stored = config.dtype  # building a model from it changes it
    count, found = counted(train, valid, settings, processes), survey(train, settings)
    # A step without values takes two seconds: it is taken in the one dtype that will most likely train.
    narrow = narrows(settings, config, device, dtype, "fast", trust)
    kind = torch.bfloat16 if narrow else dtype
    once = needed(found, settings, config, device, kind, trust)
    if narrow and once.step.how != "fast":
        narrow, kind, once = False, dtype, needed(found, settings, config, device, dtype, trust)
    whole = 2 * once.step.weights  # of a base that is rounded: in fp32
    if narrow:
        once = rounded(whole, once, found, config, stored)
    twice, spared = memory.recomputes(once, settings, once.step.how == "fast", device), once
    # Another one only to learn what somebody asks.
    if twice or not memory.fits(once, device):
        spared = needed(found, settings, config, device, kind, trust, twice=True)
        spared = rounded(whole, spared, found, config, stored) if narrow else spared
    return Plan(count.rows, count.valid, count.steps, count.every, found, once, spared, twice)


def counted(train: RowDataset, valid: int, settings: Settings, processes: int = 1) -> Count:
    """Count rows and steps; arguments as `make_plan` has them."""
    batches = ceil(len(train) / (settings.batch_size * processes))
    steps = settings.epochs * ceil(batches / settings.grad_accum)
    return Count(len(train), valid, steps, settings.save_steps or ceil(steps / CHECKPOINTS))


def needed(
    found: Survey,
    settings: Settings,
    config: Any,
    device: torch.device,
    dtype: torch.dtype,
    trust: bool,
    twice: bool = False,
) -> Need:
    """Reckon the memory if layers are computed once, or twice; other arguments as `make_plan` has them."""
    return memory.need(config, found.largest, replace(settings, checkpointing=twice), device, dtype, trust)


def narrows(
    settings: Settings, config: Any, device: torch.device, dtype: torch.dtype, how: str, trust: bool = False
) -> bool:
    """Tell whether a training will round its base to bf16, if that then proves itself.

    Args:
        settings: The run's.
        config: The base's.
        device: Where it will train.
        dtype: Of the weights as they are read.
        how: The path it goes.
        trust: Run the base's own code.
    """
    left = settings.dtype == "auto" and device.type == "cpu" and not settings.quantize and how == "fast"
    return left and bf16_pays(blank(config, settings, dtype, trust, most=1))


def rounded(whole: int, half: Need, found: Survey, config: Any, stored: torch.dtype | None) -> Need:
    """Reckon the memory of a training whose base is read in fp32, proved and rounded.

    Args:
        whole: Bytes of the base in fp32.
        half: What it needs in bf16, once it trains.
        found: Its rows in tokens.
        config: The base's.
        stored: Its dtype in the file, as the configuration told before a model was built from it.
    """
    text, share = config.get_text_config(), min(1.0, ROWS / len(found.largest["input_ids"]))
    words = text.vocab_size * text.hidden_size * (1 if text.tie_word_embeddings else 2)
    held = whole + half.step.weights
    # While two rows are computed in bf16, the base is there in both forms; and if its file is in fp32, its layers once
    # more in joined matrices (`fast.linear.Joined`): what was joined is still mapped. Other files are read, not mapped.
    joined = held - words * (4 + 2) if stored in (None, torch.float32) else 0
    rows = round(share * (half.step.activations + half.step.logits))
    return replace(half, begin=held + joined + half.adapter + half.optimiser + rows)


def seconds(count: Count, found: Survey, need: Need, device: torch.device, dtype: torch.dtype) -> float:
    """Reckon how long a training takes from what its largest batch computes and how fast this device is.

    Args:
        count: Its rows and steps.
        found: Its rows in tokens.
        need: As it will be computed.
        device: Where.
        dtype: Of what is computed.
    """
    product, stream = speed(device, dtype)
    step, batch = need.step, found.largest
    training = (step.flops / product + step.moved / stream) * found.tokens / batch["input_ids"].numel()
    # An exam reads each prompt once, and then all weights for every few tokens it writes.
    length = batch["attention_mask"].sum(1).float().mean().item()
    answer = found.trained / max(1, found.tokens) * length
    exam = 2 * step.parameters * length / product + answer * step.weights / stream / TOGETHER
    return training + exam * min(MOST_ROWS, count.valid) * (count.steps // count.every)


def marked(example: Example, tokenizer: Any) -> Text:
    """Decode a row; the trained part stands between ``>>>`` and ``<<<``."""
    border = next(place for place, label in enumerate(example.labels) if label != IGNORE)
    text = Text(tokenizer.decode(example.input_ids[:border]), style="dim")
    text.append(">>>", style="bold green")
    text.append(tokenizer.decode(example.input_ids[border:]), style="green")
    return text.append("<<<", style="bold green")


def show(console: Console, plan: Plan, settings: Settings, train: RowDataset, where: str) -> None:
    """Print the plan and one row as training reads it."""
    validated = either(f", {plan.valid} kept for validation", f", 另留 {plan.valid} 行验证") if plan.valid else ""
    tokens, memory = f"{plan.survey.trained:,}", f"{plan.taken.bytes / 1e9:.2f} GB"
    lines = (
        either(f"recipe   {settings.recipe}, on {where}", f"配方   {settings.recipe}, 设备 {where}"),
        either(f"rows     {plan.rows} trained{validated}", f"数据   训练 {plan.rows} 行{validated}"),
        either(
            f"steps    {plan.steps} ({settings.epochs} epochs), a checkpoint every {plan.every}",
            f"步数   {plan.steps} ({settings.epochs} 轮), 每 {plan.every} 步存一个检查点",
        ),
        either(f"tokens   {tokens} trained in all", f"词元   共训练 {tokens} 个"),
        either(f"memory   about {memory}", f"内存   约 {memory}"),
        either("one row, the trained part between >>> and <<<:", "一行示例, 被训练的部分在 >>> 与 <<< 之间:"),
    )
    for line in lines:
        console.print(line, markup=False, highlight=False)
    console.print(marked(train.example(0), train.tokenizer), soft_wrap=True)
