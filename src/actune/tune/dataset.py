"""Training rows as the Trainer reads them: which row stands where and how it looks depends on the epoch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset

from actune.data.augment import Stock, augment
from actune.data.rows import Row
from actune.prompt import PromptFormat
from actune.tune import several
from actune.tune.encode import IGNORE, Example, encode
from actune.tune.options import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class View:
    """How rows are varied from epoch to epoch.

    Args:
        stock: What they are varied with.
        seed: Of order and shuffles.
        distractors: Add and drop actions.
        fresh: Shuffle anew each epoch; else the lists keep their first shuffle.
        max_length: Most tokens a varied row may have.
        window: Rows of one step. They stand by length, so that its batches hold little padding; their order does not
            matter, for a step sums over all of them.
    """

    stock: Stock
    seed: int
    distractors: bool
    fresh: bool
    max_length: int
    window: int


class RowDataset(Dataset[dict[str, Any]]):
    """Rows, encoded when asked for.

    Order and looks are pure functions of seed, epoch and index: nothing has to be saved to go on after a kill.

    Args:
        rows: The rows as written.
        tokenizer: The base's.
        fmt: The run's prompt format.
        view: How they vary; None: order and lists stay as written (validation).
    """

    def __init__(
        self,
        rows: Sequence[Row],
        tokenizer: PreTrainedTokenizerBase,
        fmt: PromptFormat,
        view: View | None,
    ) -> None:
        self.rows, self.tokenizer, self.fmt, self.view = rows, tokenizer, fmt, view
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Turn to an epoch; accelerate's data loader calls this."""
        self.epoch = epoch
        self.order = list(range(len(self.rows)))
        if self.view is not None:
            random.Random(f"{self.view.seed}/{epoch}").shuffle(self.order)
            starts = range(0, len(self.order), self.view.window)
            windows = [self.order[start : start + self.view.window] for start in starts]
            self.order = [index for window in windows for index in sorted(window, key=self._characters)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict[str, Any]:
        index = self.order[place]
        example = self.example(index)
        return {"input_ids": example.input_ids, "labels": example.labels, "rows": index}

    def row(self, index: int) -> Row:
        """Return row `index` as it looks in the present epoch."""
        if self.view is None:
            return self.rows[index]
        epoch = self.epoch if self.view.fresh else 0
        return augment(self.rows[index], self.view.stock, epoch, index, self.view.seed, self.view.distractors)

    def example(self, index: int) -> Example:
        """Encode row `index` as it looks in the present epoch."""
        example = encode(self.row(index), self.tokenizer, self.fmt)
        if self.view is None or len(example.input_ids) <= self.view.max_length:
            return example
        # Added actions must not cost a row that fits as it was written.
        return encode(self.rows[index], self.tokenizer, self.fmt)

    def _characters(self, index: int) -> int:
        """Length in characters: near enough to sort by, and far cheaper than tokens."""
        row = self.row(index)
        return sum(map(len, (row.question, row.script, row.system, *row.actions, *(turn.text for turn in row.history))))


def view_of(rows: Sequence[Row], settings: Settings, max_length: int) -> View:
    """Make the view that the settings ask for."""
    window = settings.batch_size * settings.grad_accum * several.processes()
    return View(Stock.of(rows), settings.seed, settings.augment == "on", settings.fresh_shuffle, max_length, window)


def collate(items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Put rows into a batch, padded on the right.

    Padding is masked by length, never by token id: a base may have one token for padding and for stopping.

    Returns:
        ``input_ids``, ``attention_mask`` and ``labels`` [batch, longest] and ``rows`` [batch].
    """
    longest = max(len(item["input_ids"]) for item in items)

    def pad(values: list[int], filler: int) -> list[int]:
        return values + [filler] * (longest - len(values))

    return {
        "input_ids": torch.tensor([pad(item["input_ids"], 0) for item in items]),
        "attention_mask": torch.tensor([pad([1] * len(item["input_ids"]), 0) for item in items]),
        "labels": torch.tensor([pad(item["labels"], IGNORE) for item in items]),
        "rows": torch.tensor([item["rows"] for item in items]),
    }


def shortened(settings: Settings, limit: int | None) -> int:
    """Return the most tokens a row may have: the option, within what the base can take."""
    most = [number for number in (settings.max_length, limit) if number is not None]
    return min(most) if most else 1 << 30
