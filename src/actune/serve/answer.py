"""What is asked of an actor, and its answer while it comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from actune.data.rows import Turn
from actune.script.events import Act, Done, Event, Say


@dataclass(frozen=True)
class Asked:
    """One question with all that its answer depends on. The names are those of `Actor.events`."""

    question: str
    names: tuple[str, ...] = ()
    history: tuple[Turn, ...] = ()
    persona: str = ""
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    """Words that end the answer where they would be said."""
    force: bool = False
    """Begin with an action, if the engine can be made to."""


class Answer:
    """The events of one answer, as far as they have come.

    It is a log, not a queue: any number of followers read it, each at its own pace, and none of them can hold up
    whoever writes. An answer is never longer than its budget, so the log is bounded. Lives on the event loop.

    Args:
        asked: The question.
        prompt_tokens: Length of its prompt.
    """

    def __init__(self, asked: Asked, prompt_tokens: int = 0) -> None:
        self.asked, self.prompt_tokens = asked, prompt_tokens
        self.events: list[Event] = []
        self.begun = time.perf_counter()
        self.prevented = 0
        """Actions that the list prevented; known at the end."""
        self.first_word_ms: float | None = None
        self.first_act_ms: float | None = None
        self._news = asyncio.Event()

    @property
    def done(self) -> Done | None:
        """The last event, once it is there."""
        last = self.events[-1] if self.events else None
        return last if isinstance(last, Done) else None

    def extend(self, events: Sequence[Event]) -> None:
        """Write down what came, and wake who waits for it. Nothing comes after `Done`."""
        if self.done or not events:
            return
        now = (time.perf_counter() - self.begun) * 1000
        if self.first_word_ms is None and any(isinstance(event, Say) and event.text.strip() for event in events):
            self.first_word_ms = now
        if self.first_act_ms is None and any(isinstance(event, Act) for event in events):
            self.first_act_ms = now
        self.events += events
        self._news.set()
        self._news = asyncio.Event()

    async def follow(self) -> AsyncIterator[Event]:
        """Yield the events from the first on, up to `Done`."""
        async for event in self.beats(None):
            if event is not None:
                yield event

    async def beats(self, every: float | None) -> AsyncIterator[Event | None]:
        """Yield the events as `follow` does, and None when none came for so many seconds."""
        place = 0
        while True:
            while place < len(self.events):
                yield self.events[place]
                place += 1
            if self.done:
                return
            try:
                await asyncio.wait_for(self._news.wait(), every)
            except TimeoutError:
                yield None

    async def whole(self) -> list[Event]:
        """Wait for the end and return all events."""
        return [event async for event in self.follow()]
