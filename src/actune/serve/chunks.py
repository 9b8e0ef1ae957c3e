"""Whole sentences out of a stream of words, for bodies that speak sentence by sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable

from actune.script.events import Event, Say

# A line's end; a full-width stop; an ASCII one before white space (not the one in 3.5). Quotes that close go along, so
# that one more character must have come before a cut is certain.
_END = re.compile(r"\n+|[。！？…]+[”’」』）)\"']*(?=[^。！？…”’」』）)\"'])|[.!?]+[”’)\"']*(?=\s)")
_COMMA = re.compile(r"[，、；：](?=.)|[,;:](?=\s)", re.DOTALL)


class Sentences:
    """Gathers words until a sentence is whole; nothing is lost, and an action comes after all words before it.

    The first piece may end at a comma: it is what a listener waits for.
    """

    def __init__(self) -> None:
        self._held = ""
        self._first = True

    def feed(self, event: Event) -> list[Event]:
        """Take the next event and return what is complete."""
        if not isinstance(event, Say):
            return [*self._flush(), event]
        self._held += event.text
        whole: list[Event] = []
        while cut := self._cut():
            whole.append(Say(self._held[:cut]))
            self._held, self._first = self._held[cut:], False
        return whole

    def _cut(self) -> int:
        # Words must stand before the cut: white space alone is not a sentence.
        begin = len(self._held) - len(self._held.lstrip())
        ends = [
            match.end() for pattern in (_END, _COMMA)[: 1 + self._first] if (match := pattern.search(self._held, begin))
        ]
        return min(ends, default=0)

    def _flush(self) -> list[Event]:
        held, self._held = self._held, ""
        self._first = self._first and not held.strip()
        return [Say(held)] if held else []


def sentences(events: Iterable[Event]) -> list[Event]:
    """Cut a whole answer."""
    cutter = Sentences()
    return [piece for event in events for piece in cutter.feed(event)]
