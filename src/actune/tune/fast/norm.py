"""RMS norms in few passes over memory.

A norm of transformers makes five passes over the hidden states and keeps three copies for the backward pass. This one
reads and writes a few hundred rows at a time, which stay in the cache, and keeps one number a row.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch

ROWS = 256


@dataclass(frozen=True)
class Norm:
    """What a norm computes: x / sqrt(mean(x^2) + epsilon) * (weight + plus). The weight is frozen.

    Args:
        module: The norm.
        plus: 0, or 1 where its weight is kept as a difference from 1.
        epsilon: As above.
    """

    module: Any
    plus: float
    epsilon: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise [..., size]."""
        return _norm(x, self.module.weight, self.plus, self.epsilon)

    def scale(self) -> torch.Tensor:
        """What normalised values are multiplied by [size], fp32."""
        weight: torch.Tensor = self.module.weight
        return weight.detach().float() + self.plus


def fused(norm: Any) -> Norm | None:
    """Find what a norm computes, or None.

    What a norm does is tried, not guessed from its name: scale by `weight` (Llama) or by 1 + `weight` (Gemma).

    Args:
        norm: Any module.
    """
    weight, epsilon = norm._parameters.get("weight"), _epsilon(norm)
    if weight is None or weight.dim() != 1 or epsilon is None or len(norm._parameters) > 1 or norm._modules:
        return None
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(3, weight.shape[0], generator=draw).mul_(2).add_(0.3).to(weight.dtype)
    # It is tried on a twin with values of its own: the norm itself may be on the meta device. Its class says what it
    # computes; `forward` may have been replaced already.
    twin, some = copy.copy(norm), torch.randn(weight.shape[0], generator=draw).to(weight.dtype)
    twin._parameters = {"weight": torch.nn.Parameter(some, requires_grad=False)}
    vars(twin).pop("forward", None)
    tolerance = 1e-5 if x.dtype == torch.float32 else 2e-2
    with torch.no_grad():
        wanted = twin(x).float()
        for plus in (0.0, 1.0):
            if torch.allclose(_norm(x, some, plus, epsilon).float(), wanted, rtol=tolerance, atol=1e-6):
                return Norm(norm, plus, epsilon)
    return None


def _epsilon(norm: torch.nn.Module) -> float | None:
    """The one small number among a module's own values: norms call it eps, epsilon or variance_epsilon."""
    found = [value for name, value in vars(norm).items() if "eps" in name and isinstance(value, float)]
    return found[0] if len(found) == 1 else None


def _norm(x: torch.Tensor, weight: torch.Tensor, plus: float, epsilon: float) -> torch.Tensor:
    out: torch.Tensor = _Norm.apply(x, weight, plus, epsilon)  # type: ignore[no-untyped-call]
    return out


def forward(x: torch.Tensor, scale: torch.Tensor, epsilon: float, out: torch.Tensor) -> torch.Tensor:
    """Normalise rows.

    Args:
        x: [rows, size].
        scale: [size], fp32.
        epsilon: Of the norm.
        out: Is filled [rows, size].

    Returns:
        The inverse root of each row's mean square [rows, 1], fp32, for `backward`.
    """
    inverse = torch.empty(len(x), 1, dtype=torch.float32, device=x.device)
    for begin in range(0, len(x), ROWS):
        part = slice(begin, begin + ROWS)
        some = x[part].float()
        ratio = torch.linalg.vector_norm(some, dim=-1, keepdim=True).square_()
        ratio.div_(x.shape[1]).add_(epsilon).rsqrt_()
        inverse[part] = ratio
        if out.dtype == torch.float32:
            torch.mul(torch.mul(some, ratio), scale, out=out[part])
        else:
            out[part] = torch.mul(some, ratio).mul_(scale)
    return inverse


def backward(
    grad: torch.Tensor, x: torch.Tensor, scale: torch.Tensor, inverse: torch.Tensor, out: torch.Tensor
) -> torch.Tensor:
    """Fill `out` with the gradient of `forward`'s x, and return it."""
    for begin in range(0, len(x), ROWS):
        part = slice(begin, begin + ROWS)
        some, ratio = x[part].float(), inverse[part]
        scaled = grad[part].float() * scale
        # d x = ratio * (scaled - x * ratio^2 * mean(scaled * x))
        along = torch.linalg.vecdot(scaled, some).unsqueeze(1).mul_(ratio).mul_(ratio).div_(-x.shape[1])
        scaled.addcmul_(some, along)
        if out.dtype == torch.float32:
            torch.mul(scaled, ratio, out=out[part])
        else:
            out[part] = scaled.mul_(ratio)
    return out


class _Norm(torch.autograd.Function):
    """A norm as a step of autograd."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, plus: float, epsilon: float) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        scale, out = weight.float() + plus, torch.empty_like(flat, dtype=weight.dtype)
        ctx.save_for_backward(flat, forward(flat, scale, epsilon, out), scale)
        ctx.shape = x.shape
        return out.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        flat, inverse, scale = ctx.saved_tensors
        d_x = backward(grads[0].reshape(flat.shape), flat, scale, inverse, torch.empty_like(flat))
        return d_x.view(ctx.shape), None, None, None
