"""One request between two steps of a batch: its budget, its place in the grammar, its dice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from actune.engine.judge import Ahead, judge

if TYPE_CHECKING:
    from transformers.cache_utils import Cache

    from actune.engine.local import LocalEngine, Request


class Row:
    """What one request needs between two steps.

    Args:
        ticket: Its number in the batch.
        request: What is asked.
        engine: Whose vocabulary and stop ids hold.
    """

    def __init__(self, ticket: int, request: Request, engine: LocalEngine) -> None:
        self.ticket, self.request, self._stop_ids = ticket, request, engine.stop_ids
        room = request.max_tokens if engine.context is None else engine.context - len(request.prompt)
        self.left = min(request.max_tokens, room)
        """Tokens that may still be written; 0 when the answer has ended."""
        self.token = 0
        """The last one chosen; the model has not read it yet."""
        self.cache: Cache | None = None
        """Its own keys and values, where the model's layers cannot be joined."""
        self._grammar = None if request.names is None else engine.grammar(request.names)
        self._state = 0 if self._grammar is None else self._grammar.start
        self._judge = judge(engine, request)
        # A generator of its own: what else is in the batch cannot change what it draws.
        self._generator = torch.Generator().manual_seed(request.seed)

    def choose(self, logits: Tensor, ahead: Ahead) -> list[int]:
        """Take the next token, or all of a tag whose name is decided, and note what it changes.

        Args:
            logits: What follows, [vocabulary].
            ahead: Reads what might follow after that.

        Returns:
            The tokens. All but the last have been read then.

        Raises:
            ArithmeticError: The logits are not numbers.
        """
        if torch.isnan(logits).any():
            raise ArithmeticError("the model's logits are not numbers")
        if self._grammar is not None:
            # Shared with the grammar, not copied: it is only read here.
            allowed = torch.from_numpy(self._grammar.mask(self._state, self.left))
            if self.request.watch is not None:
                self.request.watch(logits, allowed)
            logits = logits.masked_fill(~allowed, -torch.inf)
        if self._judge is None:
            tokens = [self._pick(logits)]
        else:
            tokens = self._judge.take(logits, self._state, self.left, self._pick, ahead)
        for token in tokens:
            if self._grammar is not None:
                self._state = self._grammar.step(self._state, token)
        self.token = tokens[-1]
        done = self.token in self._stop_ids or (self._judge is not None and self._judge.enough)
        self.left = 0 if done else self.left - len(tokens)
        return tokens

    def _pick(self, logits: Tensor) -> int:
        return int(logits.argmax()) if self.request.temperature <= 0 else self._sample(logits)

    def _sample(self, logits: Tensor) -> int:
        # Double: the sum over a large vocabulary must not depend on how the sort broke ties.
        probabilities, order = torch.softmax(logits.double() / self.request.temperature, -1).sort(
            descending=True, stable=True
        )
        sums = probabilities.cumsum(-1)
        kept = int(((sums - probabilities < self.request.top_p) & (probabilities > 0)).sum())
        kept = max(kept, 1)
        point = torch.rand(1, generator=self._generator, dtype=torch.float64) * sums[kept - 1]
        place = min(int(torch.searchsorted(sums[:kept], point, right=True)), kept - 1)
        return int(order[place])
