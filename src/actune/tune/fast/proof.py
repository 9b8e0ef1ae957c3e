"""The fast path proves itself on the run's own first rows before it may be used."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from actune.base.load import word_of
from actune.base.quantize import is_quantized
from actune.base.rates import rates
from actune.errors import either
from actune.tune import several
from actune.tune.dataset import RowDataset, collate
from actune.tune.fast.attention import CannotPack
from actune.tune.fast.path import FastPath
from actune.tune.memory import recomputes
from actune.tune.options import Settings
from actune.tune.rehearse import RECOMPUTE
from actune.tune.targets import stacked_experts
from actune.tune.trainer import summed_loss

log = logging.getLogger(__name__)

# Two rows: enough to be packed, to share a beginning and to be mixed up; more would only take longer.
ROWS = 2
# Relative distance of all LoRA gradients taken together, and of the loss. In bf16 both paths round, each its own way.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-2, torch.bfloat16: 2.5e-1}
# chunked, blocks, onednn: the quickest first.
TRIES = ((True, True, True), (True, True, False), (False, True, False), (True, False, False), (False, False, False))
# A route that is hardly quicker is no gain, only another way for results to differ.
WORTH = 1.15
# bf16 rounds: it must be worth it, as it is where the CPU has instructions for it, and the base not be a toy.
CLEARLY, LEAST_WIDTH = 1.5, 256
LOSS_TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}


@dataclass(frozen=True)
class Choice:
    """Which path a run takes; the manifest holds it.

    Args:
        fast: The fast path was proved.
        chunked: It computes the head itself, by chunks.
        blocks: It replaces whole blocks.
        onednn: It sends fp32 matrix products to oneDNN.
        recompute: Layers are computed twice, for memory asks for it or the recipe does.
        why: Why not the fast path, or not all of it.
    """

    fast: bool
    chunked: bool = False
    blocks: bool = False
    onednn: bool = False
    recompute: bool = False
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Give the form that the run's manifest holds."""
        return asdict(self)


def choose(model: Any, rows: RowDataset, settings: Settings, tight: bool = False) -> Choice:
    """Find out which path a new run takes.

    Args:
        model: The base with its adapter, as the training begins with it. Its base comes back in bf16 if `dtype` is left
            to us, and that is quicker and proves itself.
        rows: The training rows.
        settings: The run's.
        tight: There is no memory for layers that are computed once, here neither.
    """
    if settings.plain:
        return Choice(False, why="--plain")
    if settings.quantize == "8bit":
        return Choice(False, why="8 bits round a product's inputs: packed rows would give another loss")
    batch = collate([rows[place] for place in range(min(ROWS, len(rows)))])
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    why = ""
    with _awake(model, tight):
        wanted = _gradients(model, lambda: summed_loss(model, model.get_output_embeddings(), batch))
        for chunked, blocks, onednn in TRIES:
            if onednn and not _onednn_pays(model):
                continue
            path = FastPath(model, chunked=chunked, blocks=blocks, onednn=onednn)
            problem = _problem(path, batch, wanted)
            if not problem:
                left = settings.dtype == "auto" and model.device.type == "cpu" and not is_quantized(model)
                if left and bf16_pays(model):
                    _narrow(path, batch, wanted)
                return Choice(True, chunked, blocks, onednn, why=why)
            why = why or problem
    log.warning(
        either(
            f"training goes the plain, slower way: the fast path cannot prove itself on this base ({why})",
            f"训练改用较慢的普通路径: 快速路径无法在该基座上证明等价 ({why})",
        )
    )
    return Choice(False, why=why)


def bf16_pays(model: Any) -> bool:
    """Tell whether a base in fp32 is of a kind that this CPU computes quicker in bf16; its values are not looked at.

    Args:
        model: The base with an adapter.
    """
    base = model.get_base_model()
    if model.dtype != torch.float32:
        return False
    # What transformers keeps in fp32 at loading would not be kept here.
    if base._keep_in_fp32_modules_strict or base.config.get_text_config().hidden_size < LEAST_WIDTH:
        return False
    if stacked_experts(base):
        return False  # peft adds their update to the weights themselves: rounded to bf16, a small one would be lost
    found = rates()
    return found.bf16 > CLEARLY * max(found.fp32, found.onednn)


def _round(model: Any) -> list[tuple[torch.nn.Parameter, torch.Tensor]]:
    """Round a base to bf16, its adapter not; return what it was."""
    whole = [(value, value.data) for name, value in model.named_parameters() if "lora_" not in name]
    for value, data in whole:
        value.data = data.bfloat16()
    return whole


def _narrow(path: FastPath, batch: Mapping[str, torch.Tensor], wanted: tuple[float, dict[str, torch.Tensor]]) -> None:
    """Round the base to bf16, if the fast path then still computes what the plain one does in fp32."""
    whole = _round(path.model)
    problem = _problem(path, batch, wanted)
    if problem:
        log.warning(either(f"training stays in fp32: bf16 is too coarse here ({problem})", f"训练保持 fp32: {problem}"))
        for value, data in whole:
            value.data = data


def _onednn_pays(model: Any) -> bool:
    if model.device.type != "cpu" or model.dtype != torch.float32:
        return False
    found = rates()
    return found.onednn > WORTH * found.fp32


@contextmanager
def _awake(model: Any, twice: bool) -> Iterator[None]:
    """Give B values for a while: it begins as zero, and then neither A's gradient nor B's use can be wrong.

    Args:
        model: The base with its adapter.
        twice: Compute layers again in the backward pass.
    """
    draw = torch.Generator().manual_seed(0)
    pairs = [(value, value.detach().clone()) for name, value in model.named_parameters() if "lora_B" in name]
    training = model.training
    # Evaluation mode: dropout would make both paths draw, each in its own order.
    model.eval()
    twice = twice and model.supports_gradient_checkpointing
    if twice:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=RECOMPUTE)
        for module in model.modules():
            # Only what recomputes asks a layer itself whether it trains; its dropouts stay in evaluation.
            module.training = isinstance(module, GradientCheckpointingLayer)
    with torch.no_grad():
        for value, _ in pairs:
            value += (torch.randn(value.shape, generator=draw) * 0.01).to(value.device, value.dtype)
    try:
        yield
    finally:
        with torch.no_grad():
            for value, before in pairs:
                value.copy_(before)
        if twice:
            model.activation_checkpointing_disable()
        model.train(training)
        model.zero_grad(set_to_none=True)


def _gradients(model: Any, loss: Any) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad(set_to_none=True)
    total, count = loss()
    (total / count).backward()
    grads = {name: value.grad.float() for name, value in model.named_parameters() if value.grad is not None}
    return float(total.detach()) / count, grads


def _problem(path: FastPath, batch: Mapping[str, torch.Tensor], wanted: tuple[float, dict[str, torch.Tensor]]) -> str:
    """Compare with the plain path; return what is wrong, or nothing."""
    model = path.model
    try:
        path.put_in()
        loss, grads = _gradients(model, lambda: path.loss(model, batch))
    except (CannotPack, RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        # Whatever an architecture says to rows in a line: the plain path is there, and the run says why it is taken.
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    finally:
        path.take_out()
    if abs(loss - wanted[0]) > LOSS_TOLERANCE[model.dtype] * abs(wanted[0]):
        return f"loss {loss:.6f}, plain {wanted[0]:.6f}"
    if grads.keys() != wanted[1].keys():
        return f"other gradients: {', '.join(sorted(grads.keys() ^ wanted[1].keys())[:3])}"
    for name, grad in grads.items():
        apart = float((grad - wanted[1][name]).norm())
        # A gradient that is nearly nothing beside its kin is rounding, in both paths.
        size = float(wanted[1][name].norm())
        if not apart <= TOLERANCE[model.dtype] * max(size, 1e-6):
            return f"{name}: gradient {apart / max(size, 1e-12):.2g} apart"
    return ""


def settled(prepared: Any, model: Any) -> Any:
    """Return a new run's preparation with the path and dtype it takes in its manifest; of a resumed run, the same.

    Args:
        prepared: All that the training needs.
        model: The base with its adapter, as the training begins with it.
    """
    manifest, settings, plan = prepared.manifest, prepared.settings, prepared.plan
    if "path" in manifest.probe:
        if manifest.probe["dtype"] == "bf16" and model.dtype == torch.float32:
            _round(model)
        return prepared
    found: dict[str, Any] = {}
    if several.is_main():
        choice = choose(model, prepared.train, settings, recomputes(plan.need, settings, True, model.device))
        choice = replace(choice, recompute=recomputes(plan.need, settings, choice.fast, model.device))
        found = {"dtype": word_of(model.dtype), "path": choice.to_dict()}
    found = several.from_main(found)
    if found["dtype"] == "bf16" and model.dtype == torch.float32:
        _round(model)
    probe = manifest.probe | found
    return replace(prepared, manifest=replace(manifest, probe=probe))


def path_of(prepared: Any, model: Any) -> FastPath | None:
    """Make the path that a run's manifest names; None is the plain one, also that of runs of earlier versions."""
    choice = Choice(**prepared.manifest.probe.get("path", {"fast": False}))
    if not choice.fast:
        return None
    return FastPath(model, chunked=choice.chunked, blocks=choice.blocks, onednn=choice.onednn)


def recomputed(prepared: Any) -> bool:
    """Tell whether a run computes layers again in the backward pass to save memory."""
    return bool(prepared.manifest.probe.get("path", {}).get("recompute", prepared.settings.checkpointing))
