"""Rows of a batch in one line without padding; what several of them begin with stands there once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from actune.tune.encode import IGNORE

# A shorter common beginning saves less than its joins cost.
LEAST_SHARED = 8

Span = tuple[int, int]


@dataclass(frozen=True)
class Row:
    """Where a row's own tokens stand, and the beginning that it has in common with others.

    Args:
        begin: Of its own tokens.
        end: Of its own tokens.
        front: Begin and end of the common beginning, which it attends to; nothing if they are the same.
    """

    begin: int
    end: int
    front: Span = (0, 0)

    @property
    def before(self) -> int:
        """How many tokens of the common beginning its tokens see."""
        return self.front[1] - self.front[0]


@dataclass(frozen=True)
class Pack:
    """Rows one after another, each group of them behind its common beginning.

    Args:
        input_ids: Token ids [1, length].
        position_ids: Where each token stands in its own row [1, length].
        rows: The common beginnings, as rows of their own, and the rows; a beginning comes before its rows.
        kept: Places whose next token is trained [trained], in the order of the batch.
        targets: Those next tokens [trained].
        masks: Attention's masks, kept from layer to layer.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    rows: tuple[Row, ...]
    kept: torch.Tensor
    targets: torch.Tensor
    masks: dict[tuple[int, ...], torch.Tensor] = field(default_factory=dict, compare=False)

    @property
    def shared(self) -> int:
        """Tokens of all common beginnings."""
        return sum(end - begin for begin, end in {row.front for row in self.rows})

    def to(self, device: torch.device | str) -> Pack:
        """Return the pack with its tensors on a device."""
        ids, positions = self.input_ids.to(device), self.position_ids.to(device)
        kept, targets = self.kept.to(device), self.targets.to(device)
        return replace(self, input_ids=ids, position_ids=positions, kept=kept, targets=targets, masks={})


def pack(batch: Mapping[str, torch.Tensor], share: bool, multiple: int = 1) -> Pack:
    """Pack a padded batch.

    Args:
        batch: As `dataset.collate` makes it.
        share: Let rows share their common beginnings. With dropout each row draws its own: then they cannot.
        multiple: Fill the line up to a multiple of so many tokens, with a row of which nothing is trained.
    """
    lengths = batch["attention_mask"].sum(1).tolist()
    ids = [row[:length] for row, length in zip(batch["input_ids"].tolist(), lengths, strict=True)]
    labels = [row[:length] for row, length in zip(batch["labels"].tolist(), lengths, strict=True)]
    groups = _groups(ids, labels) if share else [(0, list(range(len(ids))))]
    line: list[int] = []
    places: list[int] = []
    rows: list[Row] = []
    trained: dict[int, tuple[list[int], list[int]]] = {}
    for shared, members in groups:
        front = (len(line), len(line) + shared)
        if shared:
            rows.append(Row(*front))
            line += ids[members[0]][:shared]
            places += range(shared)
        for member in members:
            begin, length = len(line), len(ids[member])
            rows.append(Row(begin, begin + length - shared, front))
            line += ids[member][shared:]
            places += range(shared, length)
            # Position i predicts the token at i + 1; the last one predicts none. The very first has no place before.
            at = [place for place in range(1, length) if labels[member][place] != IGNORE]
            trained[member] = [begin + place - 1 - shared for place in at], [labels[member][place] for place in at]
    if filler := -len(line) % multiple:
        rows.append(Row(len(line), len(line) + filler))
        line += [0] * filler
        places += range(filler)
    device = batch["input_ids"].device
    whole = [[number for member in range(len(ids)) for number in trained[member][side]] for side in (0, 1)]
    tensors = [torch.tensor(numbers, dtype=torch.long, device=device) for numbers in (line, places, *whole)]
    return Pack(tensors[0].unsqueeze(0), tensors[1].unsqueeze(0), tuple(rows), tensors[2], tensors[3])


def _groups(ids: list[list[int]], labels: list[list[int]]) -> list[tuple[int, list[int]]]:
    """Put rows with a common beginning together.

    Returns:
        Length of the common beginning, 0 for none, and the rows that have it; each row is in one group.
    """
    # Every place that is trained stays with its own row: the one before the first trained token is never shared.
    most = [max(0, next((at for at, label in enumerate(row[1:]) if label != IGNORE), len(row) - 1)) for row in labels]
    left, groups = list(range(len(ids))), list[tuple[int, list[int]]]()
    while left:
        first = left[0]
        common = {other: min(most[first], most[other], _common(ids[first], ids[other])) for other in left}
        # Of n rows n - 1 save the beginning.
        saved = {size: size * (sum(other >= size for other in common.values()) - 1) for size in common.values()}
        size = max(saved, key=lambda length: (saved[length], length))
        if size < LEAST_SHARED or not saved[size]:
            groups.append((0, [first]))
        else:
            groups.append((size, [other for other in left if common[other] >= size]))
        left = [other for other in left if other not in groups[-1][1]]
    return groups


def _common(one: list[int], other: list[int]) -> int:
    """Count the tokens that two rows begin with."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
