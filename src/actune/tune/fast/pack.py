"""Rows of a batch in one line without padding; what all of them begin with stands there once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from actune.tune.encode import IGNORE

# A shorter common beginning saves less than its joins cost.
LEAST_SHARED = 8


@dataclass(frozen=True)
class Pack:
    """Rows one after another, behind their common beginning.

    Args:
        input_ids: Token ids [1, length].
        position_ids: Where each token stands in its own row [1, length].
        shared: Tokens of the common beginning, at the front; 0 if there is none.
        spans: Begin and end of each row's own tokens; the first span is the common beginning, if there is one.
        kept: Places whose next token is trained [trained].
        targets: Those next tokens [trained].
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    shared: int
    spans: tuple[tuple[int, int], ...]
    kept: torch.Tensor
    targets: torch.Tensor

    def to(self, device: torch.device | str) -> Pack:
        """Return the pack with its tensors on a device."""
        ids, positions = self.input_ids.to(device), self.position_ids.to(device)
        kept, targets = self.kept.to(device), self.targets.to(device)
        return replace(self, input_ids=ids, position_ids=positions, kept=kept, targets=targets)


def pack(batch: Mapping[str, torch.Tensor], share: bool) -> Pack:
    """Pack a padded batch.

    Args:
        batch: As `dataset.collate` makes it.
        share: Let the rows share their common beginning. With dropout each row draws its own: then they cannot.
    """
    lengths = batch["attention_mask"].sum(1).tolist()
    ids = [row[:length] for row, length in zip(batch["input_ids"], lengths, strict=True)]
    labels = [row[:length] for row, length in zip(batch["labels"], lengths, strict=True)]
    shared = _shared(ids, labels) if share else 0
    begins, at = [], shared
    for row in ids:
        begins.append(at)
        at += len(row) - shared
    spans = [(begin, begin + len(row) - shared) for begin, row in zip(begins, ids, strict=True)]
    kept, targets = [], []
    for begin, row in zip(begins, labels, strict=True):
        # Position i predicts the token at i + 1; the last one predicts none. The very first token has no place before.
        trained = (row[1:] != IGNORE).nonzero().squeeze(1)
        kept.append(begin + trained - shared)
        targets.append(row[1:][trained])
    front = [(0, shared)] if shared else []
    places = [torch.arange(shared, len(row), device=row.device) for row in ids]
    return Pack(
        torch.cat([ids[0][:shared], *(row[shared:] for row in ids)]).unsqueeze(0),
        torch.cat([torch.arange(shared, device=ids[0].device), *places]).unsqueeze(0),
        shared,
        tuple(front + spans),
        torch.cat(kept),
        torch.cat(targets),
    )


def _shared(ids: list[torch.Tensor], labels: list[torch.Tensor]) -> int:
    """Count the tokens that all rows begin with; every place that is trained stays with its own row."""
    if len(ids) < 2:
        return 0
    most = min(len(row) for row in ids)
    for row in labels:
        trained = (row != IGNORE).nonzero()
        if len(trained):
            most = min(most, max(0, int(trained[0]) - 1))
    rows = torch.stack([row[:most] for row in ids])
    apart = (rows != rows[0]).any(0).nonzero()
    shared = int(apart[0]) if len(apart) else most
    return shared if shared >= LEAST_SHARED else 0
