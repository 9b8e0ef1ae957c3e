"""The one loop over tokens: rows join, take a token a step, and leave, each on its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from actune.engine.row import Row
from actune.engine.slots import Slots, kept

if TYPE_CHECKING:
    from actune.engine.local import LocalEngine, Request
    from actune.engine.tree import Tree

# Prompt tokens computed in one step before the rows under way get their next token: a burst of requests must not
# stop the ones that speak.
PREFILL = 512


class Batch:
    """Requests that are answered together. Make it by `LocalEngine.batch`; it is not for several threads at once.

    A row's text depends on its request alone: prompts are read one by one, a row has its own dice, and padding is
    masked. (In fp32. In fp16 and bf16 the rounding of a matrix product depends on how many rows it has.)

    Args:
        engine: What computes.
    """

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine
        self._tickets = 0
        self._waiting: list[Row] = []
        self._rows: list[Row] = []  # in the order of the slots
        self._slots = Slots()

    def __len__(self) -> int:
        """Rows that are not done."""
        return len(self._waiting) + len(self._rows)

    def add(self, request: Request) -> int:
        """Let a request join; its prompt is read in one of the next steps.

        Returns:
            Its ticket. A request without budget (`max_tokens` 0, or no context left) is done at once.
        """
        row = Row(self._tickets, request, self._engine)
        self._tickets += 1
        if row.left > 0:
            self._waiting.append(row)
        return row.ticket

    def drop(self, ticket: int) -> None:
        """Let a row leave before it is done; a ticket that is done already is no mistake."""
        self._waiting = [row for row in self._waiting if row.ticket != ticket]
        for place, row in enumerate(self._rows):
            if row.ticket == ticket:
                self._leave(place)
                return

    def step(self) -> list[tuple[int, int]]:
        """Compute one token for every row under way and the first ones of some rows that wait.

        Where the name of a tag is decided by scores, all of the tag comes at once.

        Returns:
            (ticket, token) for each, a ticket's tokens in order; a stop id, when the model writes one, is its last.

        Raises:
            ArithmeticError: The model's logits are not numbers. The batch is of no more use.
        """
        logits = self._decode() if self._rows else []
        spent = 0
        while self._waiting and spent < PREFILL:
            row = self._waiting.pop(0)
            last, count = self._read(row)
            spent += count
            self._rows.append(row)
            logits.append(last)
        result = []
        for place, (row, scores) in enumerate(zip(self._rows, logits, strict=True)):
            written = row.choose(scores, _Ahead(self._engine, self._slots, place))
            result += [(row.ticket, token) for token in written]
        for place in reversed(range(len(self._rows))):
            if self._rows[place].left <= 0:
                self._leave(place)
        return result

    def _leave(self, place: int) -> None:
        """Take a row out; as in the slots, the last one gets its place."""
        last = self._rows.pop()
        if place < len(self._rows):
            self._rows[place] = last
        if self._engine.joinable:
            self._slots.leave(place)

    def _decode(self) -> list[Tensor]:
        """Let the model read every row's last token; logits [vocabulary] for each."""
        device = self._engine.model.device
        ids = torch.tensor([[row.token] for row in self._rows], device=device)
        if not self._engine.joinable:
            return [self._decode_alone(row, ids[place : place + 1]) for place, row in enumerate(self._rows)]
        slots = self._slots
        slots.reserve()
        positions = torch.tensor([[length] for length in slots.lengths], device=device)
        logits = self._engine.forward(ids, slots.mask(1, device), positions, slots.cache)
        slots.grown()
        return list(logits)

    def _decode_alone(self, row: Row, ids: Tensor) -> Tensor:
        assert row.cache is not None, "a row under way has been read"
        length = row.cache.get_seq_length()
        positions = torch.full_like(ids, length)
        return self._engine.forward(ids, ids.new_ones(1, length + 1), positions, row.cache)[0]

    def _read(self, row: Row) -> tuple[Tensor, int]:
        """Let the model read a row's prompt; return logits [vocabulary] and how many tokens were computed."""
        logits, cache, count = self._engine.read(row.request.prompt)
        if self._engine.joinable:
            self._slots.join(kept(cache))
        else:
            row.cache = cache
        return logits, count


class _Ahead:
    """Reads what might follow in one row, and keeps of it what does follow."""

    def __init__(self, engine: LocalEngine, slots: Slots, place: int) -> None:
        self._engine, self._slots, self._place = engine, slots, place

    def read(self, tree: Tree) -> Tensor:
        return self._engine.branch(tree, self._slots.alone(self._place, len(tree.tokens)))

    def keep(self, nodes: Sequence[int]) -> None:
        self._slots.keep(self._place, nodes)
