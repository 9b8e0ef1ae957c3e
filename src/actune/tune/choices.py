"""The choice at a tag: a loss against what the list allows there, which is all that constrained decoding compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from actune.script.grammar import Grammar

# Weight of this loss beside the cross-entropy over the whole vocabulary.
WEIGHT = 0.0
PAD = -1

Choice = tuple[int, list[int]]
"""Place among a row's trained tokens, and the token ids that the list allows there, the right one first."""


def choices_of(answer: Sequence[int], grammar: Grammar) -> list[Choice]:
    """Find where an answer chooses among names.

    Args:
        answer: The trained token ids of a row, stop token included.
        grammar: Of the row's list.

    Returns:
        Each place inside a tag at which the list allows more than one token. Those that spell the same name by other
        tokens are among them: the constraint allows them too.
    """
    state, found = grammar.start, list[Choice]()
    for place, token in enumerate(answer):
        if grammar.inside(state):
            allowed = np.flatnonzero(grammar.mask(state)).tolist()
            if len(allowed) > 1:
                found.append((place, [token, *(other for other in allowed if other != token)]))
        state = grammar.step(state, token)
    return found


def collated(rows: Sequence[Sequence[Choice]], trained: Sequence[int]) -> dict[str, torch.Tensor]:
    """Put the choices of a batch's rows into tensors.

    Args:
        rows: Choices of each row.
        trained: Number of trained tokens of each row.

    Returns:
        ``choice_at`` [choices]: places among the batch's trained tokens, row after row; ``choice_ids`` [choices, most]:
        the allowed tokens, the right one first, filled up with `PAD`.
    """
    starts = np.cumsum([0, *trained])
    flat = [(int(start) + place, ids) for start, row in zip(starts, rows, strict=False) for place, ids in row]
    most = max((len(ids) for _, ids in flat), default=1)
    return {
        "choice_at": torch.tensor([at for at, _ in flat], dtype=torch.long),
        "choice_ids": torch.tensor([ids + [PAD] * (most - len(ids)) for _, ids in flat], dtype=torch.long).view(
            -1, most
        ),
    }


def choice_loss(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, batch: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """Compute the cross-entropy of the right token against the allowed ones, summed over the batch's choices.

    Args:
        hidden: Last hidden states of the trained places [trained, hidden size].
        weight: Of the frozen head [vocabulary, hidden size].
        bias: Of the frozen head [vocabulary], or None.
        batch: With what `collated` gives.

    Returns:
        A scalar in nats, fp32; 0 without choices.
    """
    ids = batch["choice_ids"]
    known = ids.clamp(min=0)
    # Only the allowed tokens' logits: a few rows of the head instead of all.
    logits = torch.einsum("nh,nkh->nk", hidden[batch["choice_at"]], weight[known]).float()
    if bias is not None:
        logits = logits + bias[known]
    logits = logits.masked_fill(ids == PAD, -torch.inf)
    return -torch.log_softmax(logits, -1)[:, 0].sum()
