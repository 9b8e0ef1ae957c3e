"""RMS norms in few passes over memory.

A norm of transformers makes five passes over the hidden states and keeps three copies for the backward pass. This one
reads and writes a few hundred rows at a time, which stay in the cache, and keeps one number a row.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch

ROWS = 256


def fused(norm: Any) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Find a forward that computes what a norm computes, or None.

    What a norm does is tried, not guessed from its name: scale by `weight` (Llama) or by 1 + `weight` (Gemma).

    Args:
        norm: Any module.
    """
    weight, epsilon = norm._parameters.get("weight"), _epsilon(norm)
    if weight is None or weight.dim() != 1 or epsilon is None or len(norm._parameters) > 1 or norm._modules:
        return None
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(3, weight.shape[0], generator=draw).mul_(2).add_(0.3).to(weight.dtype)
    # It is tried on a twin with values of its own: the norm itself may be on the meta device.
    twin, some = copy.copy(norm), torch.randn(weight.shape[0], generator=draw).to(weight.dtype)
    twin._parameters = {"weight": torch.nn.Parameter(some, requires_grad=False)}
    tolerance = 1e-5 if x.dtype == torch.float32 else 2e-2
    with torch.no_grad():
        wanted = twin(x).float()
        for plus in (0.0, 1.0):
            if torch.allclose(_norm(x, some, plus, epsilon).float(), wanted, rtol=tolerance, atol=1e-6):
                return lambda x, plus=plus: _norm(x, norm.weight, plus, epsilon)  # type: ignore[misc]
    return None


def _epsilon(norm: torch.nn.Module) -> float | None:
    """The one small number among a module's own values: norms call it eps, epsilon or variance_epsilon."""
    found = [value for name, value in vars(norm).items() if "eps" in name and isinstance(value, float)]
    return found[0] if len(found) == 1 else None


def _norm(x: torch.Tensor, weight: torch.Tensor, plus: float, epsilon: float) -> torch.Tensor:
    out: torch.Tensor = _Norm.apply(x, weight, plus, epsilon)  # type: ignore[no-untyped-call]
    return out


class _Norm(torch.autograd.Function):
    """y = x / sqrt(mean(x^2) + epsilon) * (weight + plus). The weight is frozen."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, plus: float, epsilon: float) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        scale = weight.float() + plus
        inverse = torch.empty(len(flat), 1, dtype=torch.float32, device=x.device)
        out = torch.empty_like(flat, dtype=weight.dtype)
        for begin in range(0, len(flat), ROWS):
            some, into = flat[begin : begin + ROWS].float(), out[begin : begin + ROWS]
            ratio = torch.linalg.vector_norm(some, dim=-1, keepdim=True).square_()
            ratio.div_(flat.shape[1]).add_(epsilon).rsqrt_()
            inverse[begin : begin + ROWS] = ratio
            torch.mul(torch.mul(some, ratio), scale, out=into) if into.dtype == some.dtype else into.copy_(
                torch.mul(some, ratio).mul_(scale)
            )
        ctx.save_for_backward(flat, inverse, scale)
        ctx.shape = x.shape
        return out.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        flat, inverse, scale = ctx.saved_tensors
        grad = grads[0].reshape(flat.shape)
        d_x = torch.empty_like(flat)
        for begin in range(0, len(flat), ROWS):
            some, ratio = flat[begin : begin + ROWS].float(), inverse[begin : begin + ROWS]
            scaled = grad[begin : begin + ROWS].float() * scale
            # d x = ratio * (scaled - x * ratio^2 * mean(scaled * x))
            along = torch.linalg.vecdot(scaled, some).unsqueeze(1).mul_(ratio).mul_(ratio).div_(-flat.shape[1])
            d_x[begin : begin + ROWS] = scaled.addcmul_(some, along).mul_(ratio)
        return d_x.view(ctx.shape), None, None, None
