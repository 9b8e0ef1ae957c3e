"""What a training will do, printed before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from actune.errors import either
from actune.tune.dataset import RowDataset
from actune.tune.encode import IGNORE, Example
from actune.tune.options import Settings

CHECKPOINTS = 8
# Measured over SmolLM2 in fp32: what the backward pass keeps, over the inputs and outputs of all linear layers.
KEPT_SHARE = 1.0
RUNTIME_BYTES = 500_000_000


@dataclass(frozen=True)
class Plan:
    """The size of a training.

    Args:
        rows: Training rows.
        valid: Validation rows.
        steps: Optimizer steps in all.
        every: Steps from one checkpoint to the next.
        trained_tokens: Over all epochs.
        bytes: Memory expected, all in all.
    """

    rows: int
    valid: int
    steps: int
    every: int
    trained_tokens: int
    bytes: int


def make_plan(train: RowDataset, valid: int, settings: Settings, model: Any, processes: int = 1) -> Plan:
    """Reckon what a training will take.

    Args:
        train: The training rows.
        valid: Number of validation rows.
        settings: The run's.
        model: The base with its adapter.
        processes: Number of processes that share the rows.
    """
    batches = ceil(len(train) / (settings.batch_size * processes))
    steps = settings.epochs * ceil(batches / settings.grad_accum)
    every = settings.save_steps or ceil(steps / CHECKPOINTS)
    examples = [train.example(index) for index in range(len(train))]
    trained = settings.epochs * sum(example.trained for example in examples)
    return Plan(len(train), valid, steps, every, trained, _memory(examples, settings, model))


def _memory(examples: list[Example], settings: Settings, model: Any) -> int:
    """Reckon the bytes of weights, adapter with Adam's moments, and activations of the largest batch."""
    rows = min(settings.batch_size, len(examples))
    tokens = rows * max(len(example.input_ids) for example in examples)
    trained = rows * max(example.trained for example in examples)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    adapter = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    layers = model.config.get_text_config().num_hidden_layers
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    # The head is a linear layer, but sees the trained positions only.
    width = sum(module.in_features + module.out_features for module in linear) - model.config.vocab_size
    if settings.checkpointing:
        width = ceil(width / layers) + layers * model.config.get_text_config().hidden_size
    size = model.dtype.itemsize
    head = trained * model.config.get_text_config().vocab_size * 4 * 3  # logits, their softmax, their gradient
    return int(weights + adapter * 12 + KEPT_SHARE * tokens * width * size + head + RUNTIME_BYTES)


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
    tokens, memory = f"{plan.trained_tokens:,}", f"{plan.bytes / 1e9:.1f} GB"
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
