"""Keys and values of prompts seen before: a request that begins alike computes only what is new."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from actune.engine.slots import Kept

Ids = npt.NDArray[np.int64]


class PrefixStore:
    """The prompts used last, found by their token ids: the same text may be cut into tokens in another way.

    Args:
        megabytes: What all kept keys and values may take (10^6 bytes); 0 keeps nothing.
    """

    def __init__(self, megabytes: float) -> None:
        self._room = megabytes * 1e6
        self._kept: list[tuple[Ids, list[Kept]]] = []  # least recently used first

    @property
    def size(self) -> int:
        """Bytes taken by the keys and values."""
        return sum(_size(layers) for _, layers in self._kept)

    def find(self, ids: Sequence[int]) -> tuple[list[Kept], int]:
        """Find the kept sequence with the longest common beginning.

        Returns:
            Its layers and the number of positions that are of use: less than `len(ids)`, for the last position has
            to be computed to know what follows it.
        """
        wanted = np.asarray(ids[:-1], dtype=np.int64)
        shared = [_common(wanted, other) for other, _ in self._kept]
        if not shared or max(shared) == 0:
            return [], 0
        best = max(range(len(shared)), key=shared.__getitem__)
        self._kept.append(self._kept.pop(best))
        return self._kept[-1][1], shared[best]

    def keep(self, ids: Sequence[int], layers: list[Kept]) -> None:
        """Keep a sequence; what it contains is no longer needed, and the least recently used make room."""
        new = np.asarray(ids, dtype=np.int64)
        if any(_common(new, other) == len(new) for other, _ in self._kept):
            return
        self._kept = [entry for entry in self._kept if _common(new, entry[0]) < len(entry[0])]
        self._kept.append((new, layers))
        size = self.size
        while size > self._room:
            size -= _size(self._kept.pop(0)[1])


def _common(one: Ids, other: Ids) -> int:
    """Length of the common beginning."""
    length = min(len(one), len(other))
    differ = np.flatnonzero(one[:length] != other[:length])
    return int(differ[0]) if len(differ) else length


def _size(layers: Sequence[Kept]) -> int:
    return sum(part.nbytes for pair in layers if pair is not None for part in pair)
