"""A training step taken where tensors have no values: how much is alive at its worst moment, how much is computed.

Nothing is loaded and nothing guessed from a formula: the base is built from its configuration without storage, and one
forward and backward pass of the very code that trains goes over it while the bytes alive are counted.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM

from actune.tune.fast.attention import CannotPack
from actune.tune.fast.pack import pack
from actune.tune.fast.path import FastPath
from actune.tune.lora import add_lora
from actune.tune.options import Settings
from actune.tune.trainer import loss_at, trained_at

# Products of matrices by name; one that works in place ends in "_". The last two operands are multiplied.
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}
# What modules say to tensors without values, or to rows in a line.
CANNOT = (CannotPack, RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError, KeyError, IndexError)
MOST_LAYERS = 3
# How layers are computed again where nothing is drawn at random: without values, and in evaluation.
RECOMPUTE = {"use_reentrant": False, "preserve_rng_state": False}
# Bytes a number: LLM.int8 has a scale a row besides; NF4 has one a block of 64, quantised once more.
BYTES = {"8bit": 1.0, "4bit": 0.5 + 1 / 64}


@dataclass(frozen=True)
class Step:
    """What a model and one batch of a training take.

    Args:
        how: ``fast`` or ``plain``, the path it went; ``reckoned`` if it could not be gone without values.
        parameters: Numbers in the base.
        trained: Numbers in the adapter.
        weights: Bytes of the base.
        activations: Bytes alive at the worst moment besides weights, adapter and logits.
        logits: Of this moment's bytes, those of logits.
        flops: Of all products of matrices, forward and backward.
        moved: Bytes read and written by everything else.
    """

    how: str
    parameters: int
    trained: int
    weights: int
    activations: int
    logits: int
    flops: float
    moved: float


class _Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes that are alive, and what is computed.

    Args:
        vocabulary: Tensors as wide as that are logits.
    """

    def __init__(self, vocabulary: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.vocabulary = vocabulary
        self.alive = self.logits = 0
        self.worst = (0, 0)
        self.flops = self.moved = 0.0
        self.known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        for tensor in given:
            self.known.add(tensor.untyped_storage())
        new = [tensor for tensor in made if tensor.untyped_storage() not in self.known]
        for tensor in new:
            self._born(tensor)
        name = func.overloadpacket.__name__
        if name.rstrip("_") in PRODUCTS:
            self.flops += 2 * made[0].numel() * given[-1].shape[-2]
        elif "scaled_dot_product" in name:
            query, key = (given[0], given[1]) if "backward" not in name else (given[1], given[2])
            self.flops += (10 if "backward" in name else 4) * query.numel() * key.shape[-2]
        elif new or name.endswith("_") or name == "copy_":
            self.moved += sum(tensor.numel() * tensor.itemsize for tensor in (*given, *made))
        return out

    def _born(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        size = storage.nbytes()
        logits = size if tensor.dim() and tensor.shape[-1] == self.vocabulary else 0
        self.known.add(storage)
        self.alive += size
        self.logits += logits
        if self.alive > self.worst[0]:
            self.worst = (self.alive, self.logits)
        weakref.finalize(storage, self._gone, size, logits)

    def _gone(self, size: int, logits: int) -> None:
        self.alive -= size
        self.logits -= logits


class _Held(torch.nn.Linear):
    """Stands for a quantised layer: the fast path leaves both alone."""


def blank(config: Any, settings: Settings, dtype: torch.dtype, trust: bool = False, most: int | None = None) -> Any:
    """Build a base with its adapter, ready to train, without values.

    Args:
        config: The base's, of transformers.
        settings: The run's.
        dtype: Of the weights, or of what quantised weights compute in.
        trust: Run the base's own code.
        most: Keep so many layers only.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust)
        layers = _layers(model)
        if most is not None and layers is not None:
            del layers[most:]
        if settings.quantize:
            for module in model.modules():
                if type(module) is torch.nn.Linear and module is not model.get_output_embeddings():
                    module.__class__ = _Held
        return add_lora(model, settings).train()


def _layers(model: Any) -> torch.nn.ModuleList | None:
    """Find the base's layers, if they are many and all alike."""
    count = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count > MOST_LAYERS:
            kinds = [[(name, value.shape) for name, value in layer.named_parameters()] for layer in module]
            return module if all(kind == kinds[0] for kind in kinds) else None
    return None


def rehearse(
    config: Any, batch: Mapping[str, torch.Tensor], settings: Settings, dtype: torch.dtype, trust: bool = False
) -> Step:
    """Take a step without values, on the path that a training would take.

    Args:
        config: The base's.
        batch: As `dataset.collate` makes it; it has values.
        settings: The run's; `checkpointing` tells whether layers are computed twice.
        dtype: Of the weights, or of what quantised weights compute in.
        trust: Run the base's own code.

    Raises:
        UserError: None of the targets is in the base.
    """
    with torch.device("meta"):
        alike = _layers(AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust))
    if alike is None:
        return _step(blank(config, settings, dtype, trust), batch, settings)
    # Every layer more takes the same: two and three tell what all take.
    two, three = (
        _step(blank(config, settings, dtype, trust, most), batch, settings) for most in (MOST_LAYERS - 1, MOST_LAYERS)
    )
    more = len(alike) - MOST_LAYERS
    numbers = {
        field.name: getattr(three, field.name) + more * (getattr(three, field.name) - getattr(two, field.name))
        for field in fields(Step)
        if field.name != "how"
    }
    return Step(three.how, **numbers)


def _step(model: Any, batch: Mapping[str, torch.Tensor], settings: Settings) -> Step:
    # In 8 bits the inputs of a product are rounded, so that packed rows give another loss (3.8808 in place of 3.8786,
    # SmolLM2) and the proof of the fast path refuses them.
    if not settings.plain and settings.quantize != "8bit":
        with suppress(*CANNOT):  # Then training finds the same, and takes the plain path.
            return _fast(model, batch, settings)
    try:
        return _plain(model, batch, settings)
    except CANNOT:
        return _reckoned(model, batch, settings)


def _fast(model: Any, batch: Mapping[str, torch.Tensor], settings: Settings) -> Step:
    path = FastPath(model, blocks=not settings.quantize)
    rows = pack(batch, share=not path.drops).to("meta")
    some = {name: tensor.to("meta") for name, tensor in batch.items()}
    with path:
        return _counted(model, settings, "fast", lambda: path.loss_of(model, rows, some))


def _plain(model: Any, batch: Mapping[str, torch.Tensor], settings: Settings) -> Step:
    kept, targets = trained_at(batch["labels"])
    # On the meta device attention would take the way that keeps all its probabilities; here it takes the CPU's.
    with FakeTensorMode() as fake:
        _pretend(model)
        head = model.get_output_embeddings()
        some = {name: fake.from_tensor(tensor) for name, tensor in batch.items()}
        places, wanted = tuple(map(fake.from_tensor, kept)), fake.from_tensor(targets)
        return _counted(model, settings, "plain", lambda: loss_at(model, head, some, places, wanted))


def _pretend(model: Any) -> None:
    """Let a model on the meta device stand on the CPU, under `FakeTensorMode`; tied weights stay tied."""
    known: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if id(tensor) not in known:
                    twin = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                    tied = isinstance(tensor, torch.nn.Parameter)
                    known[id(tensor)] = torch.nn.Parameter(twin, tensor.requires_grad) if tied else twin
                tensors[name] = known[id(tensor)]


def _counted(model: Any, settings: Settings, how: str, loss: Callable[[], torch.Tensor]) -> Step:
    if settings.checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=RECOMPUTE)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter)  # It is counted with the adapter.
    with _Ledger(model.config.get_text_config().vocab_size) as ledger:
        loss().backward()  # type: ignore[no-untyped-call]
    worst, logits = ledger.worst
    return Step(how, *sizes(model, settings), worst - logits + _unpacked(model), logits, ledger.flops, ledger.moved)


def _reckoned(model: Any, batch: Mapping[str, torch.Tensor], settings: Settings) -> Step:
    """Reckon from inputs and outputs of linear layers: what experts compute hangs on values."""
    tokens, text = batch["input_ids"].numel(), model.config.get_text_config()
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    # The head is a linear layer, but sees the trained positions only.
    width = sum(module.in_features + module.out_features for module in linear) - text.vocab_size
    if settings.checkpointing:
        width = width // text.num_hidden_layers + text.num_hidden_layers * text.hidden_size
    logits = len(trained_at(batch["labels"])[1]) * text.vocab_size * 4 * 3  # themselves, their softmax, their gradient
    counts = sizes(model, settings)
    flops = 6.0 * tokens * counts[0] * (4 / 3 if settings.checkpointing else 1)
    return Step("reckoned", *counts, tokens * width * model.dtype.itemsize, logits, flops, 0.0)


def sizes(model: Any, settings: Settings) -> tuple[int, int, int]:
    """Count the numbers in base and adapter, and the bytes of the base as it is held."""
    held = {id(module.weight) for module in model.modules() if type(module) is _Held}
    per = BYTES[settings.quantize] if settings.quantize else 0.0
    base = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    weights = sum(part.numel() * (per if id(part) in held else part.itemsize) for part in base)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return sum(part.numel() for part in base), trained, int(weights)


def _unpacked(model: Any) -> int:
    """Bytes of the largest quantised layer in floating point: it is unpacked whole before it is multiplied."""
    return max((m.weight.numel() * m.weight.itemsize for m in model.modules() if type(m) is _Held), default=0)
