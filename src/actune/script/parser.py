"""The streaming parser: chunks of a script in, events out. The only reader of tags in actune."""

from __future__ import annotations

import codecs
from collections.abc import Collection, Iterable

from actune.script.catalogue import CLOSE, OPEN, name_problem
from actune.script.events import Act, Event, Fault, FaultKind, Say, merge

# Longer than any sensible name; a tag that never closes must not hold back the rest of a stream.
MAX_NAME = 1024


class Parser:
    """Turn a script that arrives in chunks into events.

    The events do not depend on how the stream was cut (up to `merge`). Held back are an incomplete UTF-8 character
    and a tail that may begin a tag.

    Args:
        names: If given, a well-formed tag whose name is not among them is a `Fault` of kind ``unlisted``.
    """

    def __init__(self, names: Collection[str] | None = None) -> None:
        self._names = None if names is None else frozenset(names)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._buffer = ""
        self._inside = False
        self._char = 0

    def feed(self, chunk: str | bytes) -> list[Event]:
        """Take the next chunk and return what it completes."""
        if isinstance(chunk, str):
            # Text ends a character that bytes began; else the two would change places.
            chunk = self._decoder.decode(b"", final=True) + chunk if chunk else chunk
        else:
            chunk = self._decoder.decode(chunk)
        self._buffer += chunk
        events: list[Event] = []
        while self._step(events):
            pass
        return events

    def close(self) -> list[Event]:
        """End the stream: what was held back comes out, an open tag as a `Fault`."""
        events = self.feed(self._decoder.decode(b"", final=True))
        if self._inside:
            events.append(Fault("unclosed", OPEN + self._buffer, self._char))
        else:
            self._say(self._buffer, events)
        self._buffer, self._inside = "", False
        return events

    def _step(self, events: list[Event]) -> bool:
        return self._read_tag(events) if self._inside else self._read_words(events)

    def _say(self, text: str, events: list[Event]) -> None:
        if text:
            events.append(Say(text))
            self._char += len(text)

    def _read_words(self, events: list[Event]) -> bool:
        before, mark, after = self._buffer.partition(OPEN)
        if mark:
            self._say(before, events)
            self._buffer, self._inside = after, True
            return True
        kept = 1 if self._buffer.endswith(OPEN[0]) else 0
        cut = len(self._buffer) - kept
        self._say(self._buffer[:cut], events)
        self._buffer = self._buffer[cut:]
        return False

    def _read_tag(self, events: list[Event]) -> bool:
        # Only this window decides, so that a mark beyond it changes nothing, whether it is here already or not.
        window = self._buffer[: MAX_NAME + len(CLOSE)]
        full = len(window) == MAX_NAME + len(CLOSE)
        end, again = window.find(CLOSE), window.find(OPEN)
        # `<&a<&>` is the name `a<`: its `<&` is no opening, so one must wait for the character after it.
        if again >= 0 and end < 0 and again + len(OPEN) == len(window) and not full:
            return False
        # `<&a<&b&>`: the first tag never closes; the second is read as a tag of its own.
        if again >= 0 and (end < 0 or again + 1 < end):
            events.append(Fault("nested", OPEN + window[:again], self._char))
            self._buffer = self._buffer[again + len(OPEN) :]
            return True
        if end >= 0:
            self._close_tag(window[:end], events)
            self._buffer, self._inside = self._buffer[end + len(CLOSE) :], False
            return True
        if full:
            events.append(Fault("unclosed", OPEN + window[:MAX_NAME], self._char))
            self._buffer, self._inside = self._buffer[MAX_NAME:], False
        return full

    def _close_tag(self, name: str, events: list[Event]) -> None:
        kind: FaultKind | None = None
        if name_problem(name):
            kind = "name" if name.strip() else "empty"
        elif self._names is not None and name not in self._names:
            kind = "unlisted"
        events.append(Fault(kind, f"{OPEN}{name}{CLOSE}", self._char) if kind else Act(name, self._char))


def parse(script: str | Iterable[str | bytes], names: Collection[str] | None = None) -> list[Event]:
    """Parse a whole script; the result is merged and holds no `Done`."""
    parser = Parser(names)
    events: list[Event] = []
    for chunk in (script,) if isinstance(script, str) else script:
        events += parser.feed(chunk)
    return list(merge(events + parser.close()))
