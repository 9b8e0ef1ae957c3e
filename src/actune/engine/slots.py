"""The keys and values of a batch whose rows come and go: one buffer a layer, in which no row is copied to grow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

# What one layer keeps of a sequence: keys and values, each [rows, heads, length, width]; None for a layer that
# borrows another's.
Kept = tuple[Tensor, Tensor] | None
_SPARE = 64


def joinable(config: Any) -> bool:
    """Tell whether rows of this model can share a batch: its layers keep keys and values, no recurrent state."""
    layers = DynamicCache(config=config).layers
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def windows(config: Any) -> dict[str, int | None]:
    """How far back each kind of layer sees, by the kind's name in the config; ``""``: all layers are of one kind."""
    text = config.get_text_config(decoder=True)
    layers = DynamicCache(config=config).layers
    far = [layer.sliding_window if isinstance(layer, DynamicSlidingWindowLayer) else None for layer in layers]
    kinds = text.to_dict().get("layer_types")
    return dict(zip(kinds, far, strict=False)) if kinds and len(set(kinds)) > 1 else {"": far[0] if far else None}


def kept(cache: Cache) -> list[Kept]:
    """Take the keys and values out of a cache made by `seeded`."""
    # Layers without a config have these two fields; one that was never written to has None in them.
    return [None if layer.keys is None else (layer.keys, layer.values) for layer in cache.layers]


def seeded(layers: Sequence[Kept] = (), length: int = 0) -> DynamicCache:
    """Make a cache that already holds the first `length` positions of what was kept.

    Without a config every layer keeps all positions: a sliding window is then only a matter of the mask, which
    transformers makes from the model's config, and rows can be cut, joined and moved.
    """
    cut = [(None, None) if pair is None else (pair[0][:, :, :length], pair[1][:, :, :length]) for pair in layers]
    return DynamicCache(cut if length else None)


class Slots:
    """Rows of different lengths that all end at the same column; what stands before a row is masked.

    Left padding in fact, but a row joins and leaves without the others being copied: the buffers have room for rows
    and columns to come, a leaving row's place is taken by the last one.
    """

    def __init__(self) -> None:
        self.lengths: list[int] = []
        """Positions held for each row."""
        self.end = 0
        self._buffers: list[Kept] = []
        self.cache = Cache(layers=[])

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def width(self) -> int:
        """Positions of the longest row: the columns that the model sees."""
        return max(self.lengths, default=0)

    @torch.inference_mode()
    def join(self, layers: Sequence[Kept]) -> None:
        """Add a row after the others, from keys and values of one row."""
        length = next(pair[0].shape[2] for pair in layers if pair is not None)
        if not self.lengths:
            self._buffers, self.end = list(layers), length
            self.lengths.append(length)
            self._rebuild(1, length)
            return
        rows = self._capacity[0]
        if len(self) == rows or length > self.end:
            self._rebuild(2 * rows if len(self) == rows else rows, max(self.width, length))
        for buffer, pair in zip(self._buffers, layers, strict=True):
            if buffer is not None and pair is not None:
                for whole, new in zip(buffer, pair, strict=True):
                    whole[len(self), :, self.end - length : self.end] = new[0]
        self.lengths.append(length)

    @torch.inference_mode()
    def leave(self, place: int) -> None:
        """Drop a row; the last row moves to its place."""
        last = len(self) - 1
        start = self.end - self.lengths[last]
        if place != last:
            for buffer in self._buffers:
                for whole in buffer or ():
                    whole[place, :, start : self.end] = whole[last, :, start : self.end]
        self.lengths[place] = self.lengths[last]
        self.lengths.pop()
        if not self.lengths:
            self._buffers, self.end, self.cache = [], 0, Cache(layers=[])

    @torch.inference_mode()
    def reserve(self, more: int = 1) -> None:
        """Make sure that each row can take so many more positions."""
        if self.end + more > self._capacity[1]:
            self._rebuild(self._capacity[0], self.width, more)

    def grown(self) -> None:
        """Note that the model has written one more position of every row."""
        self.end += 1
        self.lengths = [length + 1 for length in self.lengths]

    def mask(self, more: int, device: torch.device) -> Tensor:
        """Return the attention mask [rows, width + more]: 1 where a row has a position."""
        width = self.width
        columns = torch.arange(width + more, device=device)
        starts = torch.tensor([width - length for length in self.lengths], device=device)
        return (columns >= starts[:, None]).long()

    def alone(self, place: int, more: int) -> Cache:
        """Return a cache of one row, good for one reading of up to `more` tokens: forgotten, unless `keep` follows."""
        self.reserve(more)
        return Cache(layers=[_Layer(self, pair, place) for pair in self._buffers])

    @torch.inference_mode()
    def keep(self, place: int, read: Sequence[int]) -> None:
        """Let a row have some of the tokens that were last read by its `alone`, in this order."""
        columns, more = torch.tensor(read) + self.end, len(read)
        taken = [[whole[place][:, columns.to(whole.device)] for whole in pair or ()] for pair in self._buffers]
        length = self.lengths[place]
        if len(self) == 1:
            self.end += more
        else:
            # All rows end at the same column, so this one moves to make room before it.
            if self.end < length + more:
                self._rebuild(self._capacity[0], max(self.width, length + more))
            old = slice(self.end - length, self.end)
            for pair in self._buffers:
                for whole in pair or ():
                    whole[place, :, old.start - more : old.stop - more] = whole[place, :, old].clone()
        for pair, new in zip(self._buffers, taken, strict=True):
            for whole, part in zip(pair or (), new, strict=True):
                whole[place, :, self.end - more : self.end] = part
        self.lengths[place] += more

    @property
    def _capacity(self) -> tuple[int, int]:
        whole = next(pair for pair in self._buffers if pair is not None)[0]
        return whole.shape[0], whole.shape[2]

    def _rebuild(self, rows: int, end: int, more: int = 0) -> None:
        """Move the rows to new buffers where they end at column `end`, with at least `more` columns after it."""
        width, spare = self.width, max(_SPARE, end // 4, more)
        buffers: list[Kept] = []
        for pair in self._buffers:
            if pair is None:
                buffers.append(None)
                continue
            grown = []
            for whole in pair:
                # Zeros: what is masked is multiplied by nought, and nought times what memory held may be no number.
                new = whole.new_zeros(rows, whole.shape[1], end + spare, whole.shape[3])
                new[: len(self), :, end - width : end] = whole[: len(self), :, self.end - width : self.end]
                grown.append(new)
            buffers.append((grown[0], grown[1]))
        self._buffers, self.end = buffers, end
        self.cache = Cache(layers=[_Layer(self, pair, None) for pair in buffers])


class _Layer(DynamicLayer):  # type: ignore[misc]
    """transformers' view of one layer's buffer. (Its cache classes are the hook for a store of one's own.)"""

    def __init__(self, slots: Slots, pair: Kept, place: int | None) -> None:
        super().__init__()
        self._slots, self._pair, self._place = slots, pair, place

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        assert self._pair is not None, "a layer that kept nothing at first keeps nothing later"
        slots, seen = self._slots, []
        rows = slice(0, len(slots)) if self._place is None else slice(self._place, self._place + 1)
        start, stop = slots.end - self.get_seq_length(), slots.end + key_states.shape[2]
        for whole, new in zip(self._pair, (key_states, value_states), strict=True):
            whole[rows, :, slots.end : stop] = new
            seen.append(whole[rows, :, start:stop])
        return seen[0], seen[1]

    def get_seq_length(self) -> int:
        return self._slots.width if self._place is None else self._slots.lengths[self._place]
