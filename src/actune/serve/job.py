"""One answer on its way through the batch."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from actune.engine.protocol import End, Token
from actune.reader import Reader
from actune.script.events import Act, Event
from actune.serve.answer import Answer
from actune.serve.stops import Stops

if TYPE_CHECKING:
    from torch import Tensor

    from actune.engine.local import Request

log = logging.getLogger(__name__)


class Watch:
    """Counts the actions that the list prevented: the model's own choice was a token that leads out of it.

    What it would have written after that is not known, so that one deviation counts until the next action.
    """

    def __init__(self) -> None:
        self.count = 0
        self._armed = True

    def __call__(self, logits: Tensor, allowed: Tensor) -> None:
        """Look at a step; see `Request.watch`."""
        if self._armed and not allowed[logits.argmax()]:
            self.count, self._armed = self.count + 1, False

    def acted(self) -> None:
        """Note that an action was written."""
        self._armed = True


@dataclass
class Job:
    """One answer on its way. All but `dropped` belongs to the thread."""

    answer: Answer
    request: Request
    reader: Reader
    stops: Stops
    watch: Watch
    deadline: float
    ticket: int | None = None
    """Its name in the batch; None while it waits."""
    left: int = 0
    """Tokens it may still have."""
    dropped: bool = False
    """Nobody wants it any more."""
    ended: bool = False
    events: list[Event] = field(default_factory=list)
    """What the event loop does not know yet."""

    def read(self, token: Token | End) -> None:
        """Take its next token, or its end."""
        if isinstance(token, End):
            if token.error is not None:
                log.error("an answer failed", exc_info=token.error)
            # The log may know addresses and paths; clients may not.
            return self.close(failure=type(token.error).__name__ if token.error else "")
        self.left -= 1
        events = self.stops.feed(self.reader.feed(token))
        if any(isinstance(event, Act) for event in events):
            self.watch.acted()
        self.events += events
        self.reader.stopped |= self.stops.hit
        if self.reader.stopped or self.left <= 0:
            self.close()

    def close(self, failure: str = "", interrupted: bool = False) -> None:
        """Write the end."""
        if self.ended:
            return
        *events, done = self.reader.close(failure, interrupted)
        self.events += [*self.stops.feed(events), *self.stops.close(), done]
        self.ended = True
