"""Whole blocks of attention with rotary positions, where a module proves to be one; what other blocks need too.

transformers' own code around the linear layers makes many passes over memory, and keeps what can be had again. Each
block here is one step of autograd that fills the inputs of its matrix products in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from actune.tune.fast import attention as rows
from actune.tune.fast import linear, norm
from actune.tune.fast.attention import Heard
from actune.tune.fast.pack import Pack

PARTS = {"q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"}


def layers(module: Any, names: tuple[str, ...]) -> list[Any] | None:
    """Return linear children by name, if all are there and of a kind that `linear.Joined` takes."""
    found = [module._modules.get(name) for name in names]
    fits = all(type(layer) is torch.nn.Linear or linear.can_fuse(layer) for layer in found)
    return found if fits else None


def filled(x: torch.Tensor, joined: linear.Joined) -> torch.Tensor:
    """Copy an input [..., width] to where its products want it."""
    buffer = joined.room(x, x.numel() // joined.width)
    buffer[:, : joined.width] = x.reshape(-1, joined.width)
    return buffer


def back_filled(grad: torch.Tensor, joined: linear.Joined) -> torch.Tensor:
    """Copy a gradient [..., height] to where its products want it."""
    buffer = joined.back_room(grad.numel() // joined.height)
    buffer[:, : joined.height] = grad.reshape(-1, joined.height)
    return buffer


def back(d_x: torch.Tensor | None, ctx: Any) -> torch.Tensor | None:
    """Give the gradient of an input the shape and dtype that the input had."""
    return None if d_x is None else d_x.view(ctx.shape).to(ctx.dtype)


def attention(module: Any, heard: Heard) -> list[tuple[Any, Callable[..., Any]]]:
    """Make forwards for an attention block, its projections included; none if it has other parts.

    The block's own does projections, head norms, rotary positions and attention of a pack. Without a pack the module's
    code runs as it is, on projections that are joined.
    """
    parts = layers(module, ("q_proj", "k_proj", "v_proj", "o_proj"))
    size = vars(module).get("head_dim")
    if parts is None or size is None or not set(module._modules) <= PARTS:
        return []
    norms = [None if found is None else norm.fused(found) for found in map(module._modules.get, ("q_norm", "k_norm"))]
    if norms.count(None) != 2 - len(module._modules.keys() & {"q_norm", "k_norm"}):
        return []
    whole, first, last = module.forward, linear.Joined(parts[:3]), linear.Joined(parts[3:])
    heads = [span.stop - span.start for span in first.spans]
    if any(width % size for width in heads) or heads[1] != heads[2]:
        return []
    shape = _Shape(first, last, heads[0] // heads[1], size, norms, heard)

    def forward(
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        attention_mask: Any = None,
        pack: Pack | None = None,
        **options: Any,
    ) -> Any:
        if pack is None or position_embeddings is None or not linear.ready(parts):
            # The rest goes through as it came: transformers warns of a cache that is given under two names.
            options |= {"attention_mask": attention_mask, "pack": pack}
            return whole(hidden_states, position_embeddings=position_embeddings, **options)
        angles = [angle.float() for angle in position_embeddings]
        adapter = (*first.parameters(), *last.parameters())
        return _Heads.apply(hidden_states, *angles, pack, shape, *adapter), None  # type: ignore[no-untyped-call]

    return [(module, forward), *linear.Once(first).forwards(), *linear.Once(last).forwards()]


class _Shape:
    """An attention block: its matrices, query heads per key head, size of a head, norms of queries and keys."""

    def __init__(
        self,
        first: linear.Joined,
        last: linear.Joined,
        group: int,
        size: int,
        norms: Sequence[norm.Norm | None],
        heard: Heard,
    ) -> None:
        self.first, self.last, self.group, self.size, self.norms, self.heard = first, last, group, size, norms, heard
        self.keys = (first.spans[1].stop - first.spans[1].start) // size

    def parted(self, side: torch.Tensor) -> list[torch.Tensor]:
        """Views of [length, all heads * size]: queries, keys, values, each [length, heads, size]."""
        return [side[:, span].view(len(side), -1, self.size) for span in self.first.spans]

    def grouped(self, heads: torch.Tensor) -> torch.Tensor:
        """[length, heads * size] as a view [key heads, length, group, size]."""
        return heads.view(len(heads), self.keys, -1, self.size).transpose(0, 1)


class _Heads(torch.autograd.Function):
    """Projections, norms of heads, rotary positions, attention in fp32, and the projection back."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        pack: Pack,
        shape: _Shape,
        *adapter: torch.Tensor,
    ) -> torch.Tensor:
        buffer = filled(x, shape.first)
        side, mask = shape.first.forward(buffer)
        *turned, values = shape.parted(side)
        inverses, ready = [], []
        for heads, found, scale in zip(turned, shape.norms, (shape.heard.scale, 1.0), strict=True):
            wide = heads.float()
            if found is not None:
                flat, wide = wide.reshape(-1, shape.size), torch.empty_like(wide, memory_format=torch.contiguous_format)
                inverses.append(norm.forward(flat, found.scale(), found.epsilon, wide.view(-1, shape.size)))
            into = wide.new_empty(shape.keys, len(wide), heads.shape[1] // shape.keys, shape.size)
            _rotate(shape.grouped(wide), cos[0], sin[0], into, scale, back=False)
            ready.append(into.flatten(1, 2))
        value = values.transpose(0, 1).float()
        query, key = ready
        out, kept = rows.forward(query, key, value, pack, shape.heard.window)
        inner = shape.last.room(x, len(buffer))
        shape.grouped(inner[:, : shape.last.width]).copy_(out.view(shape.keys, len(buffer), -1, shape.size))
        result, more = shape.last.forward(inner)
        # Norms need what they took; it is in `side`.
        ctx.save_for_backward(buffer, inner, *ready, value, cos, sin, side if inverses else None, mask, more)
        ctx.pack, ctx.own, ctx.kept, ctx.inverses, ctx.shape, ctx.dtype = pack, shape, kept, inverses, x.shape, x.dtype
        return result.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        shape, kept, ctx.kept = ctx.own, ctx.kept, None
        buffer, inner, query, key, value, cos, sin, side, mask, more = ctx.saved_tensors
        d_inner, last = shape.last.backward(back_filled(grads[0], shape.last), inner, more, True)
        d_out = shape.grouped(d_inner).float().flatten(1, 2)
        d_query, d_key, d_value = rows.backward(d_out, query, key, value, ctx.pack, shape.heard.window, kept)
        d_side = shape.first.back_room(len(buffer))
        *into, d_values = shape.parted(d_side[:, : shape.first.height])
        d_values.transpose(0, 1).copy_(d_value)
        inverses = iter(ctx.inverses)
        for index, (grad, scale) in enumerate(((d_query, shape.heard.scale), (d_key, 1.0))):
            wide = grad.new_empty(into[index].shape)
            turned = grad.view(shape.keys, len(buffer), -1, shape.size)
            _rotate(turned, cos[0], sin[0], shape.grouped(wide), scale, back=True)
            found = shape.norms[index]
            if found is not None:
                flat = shape.parted(side)[index].float().reshape(-1, shape.size)
                norm.backward(wide.view(flat.shape), flat, found.scale(), next(inverses), wide.view(flat.shape))
            into[index].copy_(wide)
        d_x, first = shape.first.backward(d_side, buffer, mask, ctx.needs_input_grad[0])
        return back(d_x, ctx), None, None, None, None, *first, *last


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, out: torch.Tensor, scale: float, back: bool) -> None:
    """Turn the halves of each head's rotated part, or turn gradients back, and scale.

    Args:
        x: [key heads, length, group, size], fp32.
        cos: [length, rotated size].
        sin: [length, rotated size].
        out: As x.
        scale: Of the result.
        back: Turn back.
    """
    size = cos.shape[-1]
    if size < x.shape[-1]:
        torch.mul(x[..., size:], scale, out=out[..., size:])
    halves = slice(0, size // 2), slice(size // 2, size)
    first, second = (x[..., half] for half in halves)
    cosines, sines = ([(part[:, None, half] * scale) for half in halves] for part in (cos, sin))
    into = [out[..., half] for half in halves]
    # out1 = x1 cos1 - x2 sin1, out2 = x2 cos2 + x1 sin2
    torch.mul(first, cosines[0], out=into[0]).addcmul_(second, sines[1] if back else sines[0], value=1 if back else -1)
    torch.mul(second, cosines[1], out=into[1]).addcmul_(first, sines[0] if back else sines[1], value=-1 if back else 1)
