"""Whole blocks of the usual kind, where a module proves to be one: gated MLP, attention with rotary positions.

transformers' own code around the linear layers makes many passes over memory, and keeps what can be had again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from actune.tune.fast import linear
from actune.tune.fast.attention import Heard, packed
from actune.tune.fast.pack import Pack

ROWS = 256
PARTS = {"q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"}


def _layers(module: Any, names: tuple[str, ...]) -> list[Any] | None:
    """Return linear children by name, if all are there and of a kind that `linear.project` takes."""
    found = [module._modules.get(name) for name in names]
    fits = all(type(layer) is torch.nn.Linear or linear.can_fuse(layer) for layer in found)
    return found if fits else None


def gated_mlp(module: Any) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Make a forward for down(act(gate(x)) * up(x)), or None if the module has other parts."""
    layers, act = _layers(module, ("gate_proj", "up_proj", "down_proj")), module._modules.get("act_fn")
    if layers is None or act is None or len(module._modules) != 4:
        return None
    gate, up, down = layers
    whole = module.forward

    def forward(x: torch.Tensor) -> torch.Tensor:
        if not linear.ready(layers):
            return whole(x)  # type: ignore[no-any-return]
        hidden: torch.Tensor = _Gate.apply(*linear.project(x, [gate, up]), act)  # type: ignore[no-untyped-call]
        return linear.project(hidden, [down])[0]

    return forward


class _Gate(torch.autograd.Function):
    """act(gate) * up; a few hundred rows at a time. The activation is any function; its gradient is autograd's."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor, act: Any) -> torch.Tensor:
        rows, others = gate.reshape(-1, gate.shape[-1]), up.reshape(-1, up.shape[-1])
        out = torch.empty_like(rows)
        for begin in range(0, len(rows), ROWS):
            part = slice(begin, begin + ROWS)
            torch.mul(act(rows[part]), others[part], out=out[part])
        ctx.save_for_backward(rows, others)
        ctx.act, ctx.shape = act, gate.shape
        return out.view(gate.shape)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        rows, others = ctx.saved_tensors
        grad = grads[0].reshape(rows.shape)
        d_gate, d_up = torch.empty_like(rows), torch.empty_like(rows)
        for begin in range(0, len(rows), ROWS):
            part = slice(begin, begin + ROWS)
            with torch.enable_grad():
                some = rows[part].detach().requires_grad_()
                active = ctx.act(some)
            torch.mul(active.detach(), grad[part], out=d_up[part])
            (d_gate[part],) = torch.autograd.grad(active, some, others[part] * grad[part])
        return d_gate.view(ctx.shape), d_up.view(ctx.shape), None


def attention(module: Any, heard: Heard) -> Callable[..., Any] | None:
    """Make a forward for projections, head norms, rotary positions and attention, or None for other parts."""
    layers = _layers(module, ("q_proj", "k_proj", "v_proj", "o_proj"))
    size = vars(module).get("head_dim")
    if layers is None or size is None or not set(module._modules) <= PARTS:
        return None
    whole = module.forward
    norms = [module._modules.get(name) for name in ("q_norm", "k_norm")]

    def forward(
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        attention_mask: Any = None,
        pack: Pack | None = None,
        **options: Any,
    ) -> Any:
        if pack is None or position_embeddings is None or not linear.ready(layers):
            # The rest goes through as it came: transformers warns of a cache that is given under two names.
            options |= {"attention_mask": attention_mask, "pack": pack}
            return whole(hidden_states, position_embeddings=position_embeddings, **options)
        parts = [part.unflatten(-1, (-1, size)) for part in linear.project(hidden_states, layers[:3])]  # type: ignore[no-untyped-call]
        for index, norm in enumerate(norms):
            turned = parts[index] if norm is None else norm(parts[index])
            parts[index] = _Rotate.apply(turned, *position_embeddings)  # type: ignore[no-untyped-call]
        query, key, value = (part.transpose(1, 2) for part in parts)
        out = packed(query, key, value, pack, heard.scale, heard.window)
        return linear.project(out.flatten(2), layers[3:])[0], None

    return forward


class _Rotate(torch.autograd.Function):
    """Rotary positions of heads [1, length, heads, size] by cosines and sines [1, length, rotated size]; in fp32."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.dtype = x.dtype
        return _rotated(x, cos, sin, back=False)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        return _rotated(grads[0], cos, sin, back=True).to(ctx.dtype), None, None


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, back: bool) -> torch.Tensor:
    """Turn the halves of each head's rotated part, or turn gradients back."""
    size = cos.shape[-1]
    out = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    out[..., size:] = x[..., size:]
    first, second = x[..., : size // 2], x[..., size // 2 : size]
    x, cos, sin = x.float(), cos.float(), sin.float()
    cosines, sines = cos.unsqueeze(2).chunk(2, -1), sin.unsqueeze(2).chunk(2, -1)
    into = out[..., : size // 2], out[..., size // 2 : size]
    if back:
        torch.mul(first, cosines[0], out=into[0]).addcmul_(second, sines[1])
        torch.mul(second, cosines[1], out=into[1]).addcmul_(first, sines[0], value=-1)
    else:
        torch.mul(first, cosines[0], out=into[0]).addcmul_(second, sines[0], value=-1)
        torch.mul(second, cosines[1], out=into[1]).addcmul_(first, sines[1])
    return out
