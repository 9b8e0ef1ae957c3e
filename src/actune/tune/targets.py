"""Which parts of a base get an adapter: found in its tree of modules, or as the user names them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

ALL = "all-linear"
EXPERTS = "experts"
# peft 0.21 takes a module of one of these names, in a base whose experts are stacked, for a part of an expert, and
# then leaves the module without an adapter. Such a module is named by its weight instead.
_PARTS = {"gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"}


@dataclass(frozen=True)
class Targets:
    """What gets an adapter.

    Args:
        modules: Names of modules as peft takes them, or `ALL`.
        parameters: Names of weights that get one without their module: the stacked experts of a layer [experts, ...],
            and those of modules that peft would lose.
        frozen: Weights that should have one and cannot.
    """

    modules: str | list[str]
    parameters: list[str] = field(default_factory=list)
    frozen: list[str] = field(default_factory=list)


def find_targets(model: Any, wanted: Iterable[str], dropout: float) -> Targets:
    """Find what gets an adapter.

    Args:
        model: The base.
        wanted: Names, or ends of names, of modules and stacked experts; or only `ALL`: all linear modules but the
            head, and all stacked experts.
        dropout: Of the adapter; peft has none for weights without their module.
    """
    names = list(wanted)
    stacked = stacked_experts(model)
    if not stacked:
        return Targets(ALL if names == [ALL] else names)
    linear = _linear(model)
    chosen = [name for name in linear if names == [ALL] or _named(name, names)]
    experts = [name for name in stacked if names == [ALL] or _named(name, names)]
    parts = [f"{name}.weight" for name in chosen if name.rpartition(".")[2] in _PARTS]
    modules = [name for name in chosen if f"{name}.weight" not in parts]
    # Without a module of its own a weight cannot drop its input, and one held in 4 or 8 bits cannot be added to.
    frozen = [name for name in (*experts, *parts) if dropout or not model.get_parameter(name).is_floating_point()]
    return Targets(modules, [name for name in (*experts, *parts) if name not in frozen], frozen)


def stacked_experts(model: Any) -> list[str]:
    """Name the weights that hold all experts of a layer at once, [experts, ...]."""
    return [name for name, weight in model.named_parameters() if weight.ndim == 3 and EXPERTS in name.split(".")]


def _linear(model: Any) -> list[str]:
    head = model.get_output_embeddings()
    return [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D) and module is not head
    ]


def _named(name: str, wanted: Iterable[str]) -> bool:
    return any(name == end or name.endswith(f".{end}") for end in wanted)
