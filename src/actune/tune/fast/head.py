"""Head and cross-entropy over trained places, some at a time: logits of a large vocabulary never exist whole."""

from __future__ import annotations

from typing import Any

import torch

from actune.base.rates import onednn_fp32

# Logits that are alive at once, in numbers: 256 MB in fp32. A bf16 head is widened once for each such part: with a
# quarter of it, 450 places over Gemma 3's 262 144 words took twice as long.
MOST_LOGITS = 1 << 26
# Logits whose softmax is taken at once: they stay in the cache, and memory is read once.
CACHED = 1 << 18
# Words of the vocabulary whose weights are widened at once: they stay in the cache.
WORDS = 512


def summed_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
) -> torch.Tensor:
    """Compute cross-entropy in nats, summed.

    Args:
        hidden: Last hidden states of the trained places [trained, hidden size].
        weight: Of the frozen head [vocabulary, hidden size].
        bias: Of the frozen head [vocabulary].
        targets: Next tokens [trained].

    Returns:
        A scalar in fp32.
    """
    loss: torch.Tensor = _CrossEntropy.apply(hidden, weight, bias, targets)  # type: ignore[no-untyped-call]
    return loss


class _CrossEntropy(torch.autograd.Function):
    """The gradient is made with the logits, while they are there."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
    ) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        size = max(1, MOST_LOGITS // weight.shape[0])
        for begin in range(0, len(hidden), size):
            some, wanted = hidden[begin : begin + size], targets[begin : begin + size]
            logits = _logits(some, weight, bias)
            total += _softmax(logits, wanted, gradient is not None)
            if gradient is not None:
                torch.mm(logits.to(weight.dtype), weight, out=gradient[begin : begin + size])
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].to(gradient.dtype), None, None, None


def _softmax(logits: torch.Tensor, wanted: torch.Tensor, graded: bool) -> torch.Tensor:
    """Sum the cross-entropy; if graded, the logits [places, vocabulary] become its gradient."""
    total = torch.zeros((), dtype=torch.float32, device=logits.device)
    rows = max(1, CACHED // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
    for some, targets in zip(torch.split(logits, rows), torch.split(wanted, rows), strict=True):
        chances = torch.log_softmax(some, -1)
        total += torch.nn.functional.nll_loss(chances, targets, reduction="sum")
        if graded:
            torch.exp(chances, out=some)
            some[torch.arange(len(some), device=some.device), targets] -= 1
    return total


def _logits(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Compute logits in fp32 [places, vocabulary].

    Logits of 20 rounded to bf16 are 0.06 off. Products of bf16 numbers that are summed and given back in fp32 come
    from oneDNN's fp32 product with bf16 inside: the inputs lose nothing by it.
    """
    if weight.dtype != torch.bfloat16 or weight.device.type != "cpu":
        return torch.nn.functional.linear(hidden, weight, bias).float()
    logits = torch.empty(len(hidden), len(weight), dtype=torch.float32)
    wide, words = hidden.float(), torch.empty(WORDS, weight.shape[1])
    with onednn_fp32():
        for begin in range(0, len(weight), WORDS):
            some = words[: len(weight) - begin].copy_(weight[begin : begin + WORDS])
            torch.mm(wide, some.t(), out=logits[:, begin : begin + WORDS])
    return logits if bias is None else logits.add_(bias)
