"""Dialogues that the server remembers for its clients: bounded in number, in length and in time."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from actune.data.rows import Turn
from actune.script.events import Act, Event, Say, merge, write
from actune.serve.answer import Answer

MAX_SESSIONS, MAX_TURNS, SECONDS = 1000, 100, 3600.0


@dataclass
class Session:
    """One dialogue: what was said and done, and the last answer, which may still be coming."""

    turns: list[Turn] = field(default_factory=list)
    names: tuple[str, ...] | None = None
    """The actions offered last."""
    last: Answer | None = None
    heard: str | None = None
    """What was heard of the last answer; None: all of it that came."""
    used: float = field(default_factory=time.monotonic)

    def history(self) -> tuple[Turn, ...]:
        """Return the turns, the last answer's as far as it was performed included."""
        return (*self.turns, *self._last_turns())

    def begin(self, answer: Answer) -> None:
        """Note an answer that begins; what was before it is settled."""
        self.turns = [*self.turns, *self._last_turns()][-MAX_TURNS:]
        self.last, self.heard = answer, None

    def _last_turns(self) -> list[Turn]:
        if self.last is None:
            return []
        events = self.last.events if self.heard is None else performed(self.last.events, self.heard)
        return [Turn("user", self.last.asked.question), Turn("assistant", write(events))]


class Sessions:
    """Sessions by name. The ones longest unused are forgotten.

    Args:
        limit: Sessions kept.
        seconds: How long an unused one is kept.
    """

    def __init__(self, limit: int = MAX_SESSIONS, seconds: float = SECONDS) -> None:
        self._limit, self._seconds = limit, seconds
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, name: str) -> Session:
        """Return a session, a new one if there is none of this name."""
        now = time.monotonic()
        while self._sessions and next(iter(self._sessions.values())).used < now - self._seconds:
            self._sessions.popitem(last=False)
        session = self._sessions.setdefault(name, Session())
        self._sessions.move_to_end(name)
        session.used = now
        while len(self._sessions) > self._limit:
            self._sessions.popitem(last=False)
        return session

    def forget(self, name: str) -> None:
        """Drop a session."""
        self._sessions.pop(name, None)


def performed(events: Sequence[Event], heard: str) -> list[Event]:
    """Cut an answer to what was performed before an interruption.

    White space does not count: a body that speaks sentence by sentence has trimmed it. An action was done if all
    words before it were heard.

    Args:
        events: The answer.
        heard: What was heard of it, from its beginning on.

    Returns:
        Its events up to there; the last `Say` may be cut.
    """
    rest = "".join(heard.split())
    kept: list[Event] = []
    for event in merge(events):
        if isinstance(event, Act):
            kept.append(event)
        if not isinstance(event, Say):
            continue
        place = 0
        while place < len(event.text) and (event.text[place].isspace() or event.text[place] == rest[:1]):
            rest = rest if event.text[place].isspace() else rest[1:]
            place += 1
        if place < len(event.text):
            return [*kept, Say(event.text[:place].rstrip())] if event.text[:place].strip() else kept
        kept.append(event)
    return kept
