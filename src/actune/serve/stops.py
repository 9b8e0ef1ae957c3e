"""Stop words: an answer ends where one of them would be said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from actune.script.events import Event, Say


class Stops:
    """Takes the words out of a stream of events that may belong to a stop word, until it is clear that they do not.

    A stop word is looked for in the words between two actions; an action in its midst parts it.

    Args:
        words: The stop words; none lets everything through.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._words = tuple(word for word in words if word)
        self._held = ""
        self.hit = False

    def feed(self, events: Iterable[Event]) -> list[Event]:
        """Return the events that are certain; none after a hit."""
        if not self._words:
            return list(events)
        certain: list[Event] = []
        for event in events:
            if self.hit:
                break
            if isinstance(event, Say):
                self._hold(event.text, certain)
            else:
                certain += [*self.close(), event]
        return certain

    def close(self) -> list[Event]:
        """Return the words that were held back."""
        held, self._held = self._held, ""
        return [Say(held)] if held and not self.hit else []

    def _hold(self, text: str, certain: list[Event]) -> None:
        text = self._held + text
        places = [place for place in map(text.find, self._words) if place >= 0]
        self.hit = bool(places)
        # Of the tail, what may begin a stop word waits for the rest of it.
        longest = max(map(len, self._words)) - 1
        starts = range(max(len(text) - longest, 0), len(text))
        tails = (place for place in starts if any(word.startswith(text[place:]) for word in self._words))
        cut = min(places) if places else next(tails, len(text))
        self._held = text[cut:]
        if cut:
            certain.append(Say(text[:cut]))
