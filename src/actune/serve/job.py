"""One answer on its way through the batch, and what the batch must be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from actune.reader import Reader
from actune.script.events import Event
from actune.serve.answer import Answer
from actune.serve.stops import Stops

if TYPE_CHECKING:
    from actune.engine.local import Request


class Batch(Protocol):
    """Answers that an engine writes together. Used by one thread only."""

    def add(self, request: Request) -> int:
        """Take a request in and return its ticket; its first token comes with one of the next steps."""

    def step(self) -> list[tuple[int, int]]:
        """Return (ticket, token) for each token that was made. An answer that has ended leaves by itself."""

    def drop(self, ticket: int) -> None:
        """Forget an answer, whether it is still here or not."""

    def __len__(self) -> int:
        """Answers that are not at their end."""


@dataclass
class Job:
    """One answer on its way. All but `dropped` belongs to the thread."""

    answer: Answer
    request: Request
    reader: Reader
    stops: Stops
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

    def read(self, token: int) -> None:
        """Take its next token."""
        self.left -= 1
        self.events += self.stops.feed(self.reader.feed(token))
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
