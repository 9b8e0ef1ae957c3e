"""Which rows are kept for validation."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TypeVar

from actune.data.augment import used_actions
from actune.data.rows import Row

FEWEST_ROWS, FEWEST_VALID = 40, 8

K = TypeVar("K", int, str)


def split(rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Part rows into training and validation, each kind (0, 1, 2, 3+ actions) by its share.

    Args:
        rows: All rows, in order.
        share: Of the validation rows; at least 8 rows unless it is 0 or there are fewer than 40 rows (none then).
        seed: Decides which.

    Returns:
        Training rows and validation rows, in their order.
    """
    if share == 0 or len(rows) < FEWEST_ROWS:
        return list(rows), []
    wanted = max(FEWEST_VALID, round(share * len(rows)))
    kinds = _kinds(rows)
    quota = quotas({kind: len(members) for kind, members in kinds.items()}, wanted)
    rng = random.Random(f"{seed}/valid")
    taken = {index for kind in sorted(kinds) for index in rng.sample(kinds[kind], quota[kind])}
    return (
        [row for index, row in enumerate(rows) if index not in taken],
        [row for index, row in enumerate(rows) if index in taken],
    )


def parts(rows: Sequence[Row], count: int, seed: int) -> list[frozenset[int]]:
    """Part rows into folds of equal size (or one apart), each kind (0, 1, 2, 3+ actions) evenly.

    Args:
        rows: All rows, in order.
        count: Of the folds.
        seed: Decides which.

    Returns:
        The places of each fold's rows; every row is in one fold.
    """
    kinds, rng = _kinds(rows), random.Random(f"{seed}/folds")
    dealt = [index for kind in sorted(kinds) for index in rng.sample(kinds[kind], len(kinds[kind]))]
    return [frozenset(dealt[first::count]) for first in range(count)]


def _kinds(rows: Sequence[Row]) -> dict[int, list[int]]:
    """Give the places of the rows by how many actions they use."""
    kinds: dict[int, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        kinds[min(3, len(used_actions(row)))].append(index)
    return kinds


def quotas(sizes: Mapping[K, int], wanted: int) -> dict[K, int]:
    """Part a number among kinds in proportion to their sizes.

    Args:
        sizes: How many there are of each kind.
        wanted: How many are wanted in all, not more than there are.

    Returns:
        How many of each kind; they add up to `wanted`.
    """
    exact = {kind: wanted * size / sum(sizes.values()) for kind, size in sizes.items()}
    quota = {kind: int(number) for kind, number in exact.items()}
    # Largest remainders first, so that the parts add up.
    for kind in sorted(exact, key=lambda kind: (quota[kind] - exact[kind], kind))[: wanted - sum(quota.values())]:
        quota[kind] += 1
    return quota
