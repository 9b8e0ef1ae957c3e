"""The frozen head at trained places, some words of the vocabulary at a time: logits never exist whole.

All that a loss needs of a vocabulary is, at each place, the sum of exp(logit - the target's logit) over the other
words: its logarithm is the loss, and the mean of these words' weights by their shares is its gradient. So a block of
words is multiplied, raised and added up while it is in the cache, and forgotten; its weights are read once.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import torch

from actune.base.rates import onednn_fp32

# Words whose logits are alive at once: on a CPU their weights in fp32 stay in the cache of a core.
WORDS, WORDS_ON_DEVICE = 512, 16384
# Places whose logits are alive at once.
PLACES = 512


def logits_at(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, words: torch.Tensor
) -> torch.Tensor:
    """Compute the logits of some words, in fp32.

    Args:
        hidden: Last hidden states [places, hidden size].
        weight: Of the frozen head [vocabulary, hidden size].
        bias: Of the frozen head [vocabulary].
        words: Some at each place [places, words].
    """
    found = (weight[words].float() * hidden.float().unsqueeze(1)).sum(-1)
    return found if bias is None else found + bias[words].float()


def cross_entropies(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
) -> torch.Tensor:
    """Compute the cross-entropy of each place, in nats.

    Args:
        hidden: Last hidden states of the trained places [trained, hidden size].
        weight: Of the frozen head [vocabulary, hidden size].
        bias: Of the frozen head [vocabulary].
        targets: Next tokens [trained].

    Returns:
        In fp32 [trained].
    """
    found: torch.Tensor = _CrossEntropies.apply(hidden, weight, bias, targets)  # type: ignore[no-untyped-call]
    return found


def from_logits(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Compute the cross-entropy of each place from whole logits [places, vocabulary], in nats and fp32.

    torch's own, whose sum over 262 000 words of Gemma is less exact, makes the loss 3e-5 and gradients 2e-4 wrong.
    """
    wide = logits.float()
    return wide.logsumexp(-1) - wide.gather(-1, targets.unsqueeze(-1)).squeeze(-1)


class _CrossEntropies(torch.autograd.Function):
    """The gradients are made with the sums, while the logits are there."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
    ) -> torch.Tensor:
        wide, losses = hidden.float(), torch.empty(len(hidden), 1, dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(wide) if ctx.needs_input_grad[0] else None
        # In parts of one size: a small remainder would have all weights widened once more for little.
        size = -(-len(hidden) // max(1, -(-len(hidden) // PLACES)))
        for begin in range(0, len(hidden), max(1, size)):
            part = slice(begin, begin + size)
            own = None if gradient is None else gradient[part]
            target = border = logits_at(hidden[part], weight, bias, targets[part, None])
            sums = _others(wide[part], weight, bias, targets[part], border, own)
            if not (sums.is_meta or sums.isfinite().all()):
                # So unlikely a target that exp went beyond fp32.
                border = _largest(wide[part], weight, bias)
                sums = _others(wide[part], weight, bias, targets[part], border, own)
            whole = sums + (target - border).exp_()
            losses[part] = whole.log() - (target - border)
            if own is not None:
                # Not the mean of all words less the target's: of a sure word these nearly cancel.
                own.sub_(weight[targets[part]].float().mul_(sums)).div_(whole)
        ctx.save_for_backward(gradient)
        ctx.dtype = hidden.dtype
        return losses.squeeze(1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return (gradient * grads[0].unsqueeze(1)).to(ctx.dtype), None, None, None


def _others(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    border: torch.Tensor,
    mean: torch.Tensor | None,
) -> torch.Tensor:
    """Sum exp(logit - border) over the words that are not the target.

    Args:
        hidden: In fp32 [places, hidden size].
        weight: As above.
        bias: As above.
        targets: As above.
        border: [places, 1].
        mean: Becomes the sum of these words' weights, each times its exp [places, hidden size].

    Returns:
        [places, 1].
    """
    sums = torch.zeros_like(border)
    if mean is not None:
        mean.zero_()
    left = [] if targets.is_meta else sorted((word, place) for place, word in enumerate(targets.tolist()))
    for begin, words, logits in _blocks(hidden, weight, bias):
        raised = logits.sub_(border).exp_()
        here = bisect_left(left, (begin + len(words), 0))
        if here:
            rows, columns = [place for _, place in left[:here]], [word - begin for word, _ in left[:here]]
            raised[torch.tensor(rows, device=raised.device), torch.tensor(columns, device=raised.device)] = 0.0
            del left[:here]
        sums += raised.sum(1, keepdim=True)
        if mean is not None:
            mean.addmm_(raised, words)
    return sums


def _largest(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    most = torch.full((len(hidden), 1), float("-inf"), device=hidden.device)
    for _, _, logits in _blocks(hidden, weight, bias):
        most = torch.maximum(most, logits.amax(1, keepdim=True))
    return most


def _blocks(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> Any:
    """Walk through blocks of the vocabulary.

    Logits of 20 rounded to bf16 are 0.06 off. Products of bf16 numbers that are summed and given back in fp32 come
    from oneDNN's fp32 product with bf16 inside: the inputs lose nothing by it.

    Yields:
        The first of some words, their weights [words, hidden size] and their logits [places, words], in fp32.
    """
    narrow, on_cpu = weight.dtype != torch.float32, weight.device.type == "cpu"
    size = WORDS if on_cpu else WORDS_ON_DEVICE
    if weight.is_meta:
        size = max(WORDS, len(weight) // 16)  # Planning need not walk in steps that small.
    room = torch.empty(size, weight.shape[1], dtype=torch.float32, device=weight.device) if narrow else weight
    space = torch.empty(len(hidden), size, dtype=torch.float32, device=weight.device)
    with onednn_fp32(narrow and on_cpu):
        for begin in range(0, len(weight), size):
            some = weight[begin : begin + size]
            words = room[: len(some)].copy_(some) if narrow else some
            logits = space[:, : len(some)]
            torch.mm(hidden, words.t(), out=logits)
            yield begin, words, logits if bias is None else logits.add_(bias[begin : begin + size])
