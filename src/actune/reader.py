"""A reader turns the tokens of one answer into events, whoever runs the loop that makes them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Sequence

from actune.engine.protocol import Token
from actune.script.events import Done, Event, Fault, Reason
from actune.script.parser import Parser


class Reader:
    """Reads one answer. Its clock starts when it is made.

    Args:
        token_bytes: Each token's bytes, by id; None for one that is no text.
        stop_ids: Every token that ends an answer.
        names: The catalogue; a well-formed tag outside it is a fault.
        blank: Whether the tokenizer puts a blank before every text, which nobody wrote.
        dropped: If given, tags that are no script are counted here by kind, and left out.
    """

    def __init__(
        self,
        token_bytes: Sequence[bytes | None],
        stop_ids: Collection[int],
        names: Collection[str],
        blank: bool,
        dropped: Counter[str] | None = None,
    ) -> None:
        self._token_bytes, self._stop_ids, self._blank = token_bytes, stop_ids, blank
        self._parser, self._dropped = Parser(names), dropped
        self._begun = time.perf_counter()
        self.ttft_ms: float | None = None
        self.tokens = 0
        self.stopped = False

    def feed(self, token: Token) -> list[Event]:
        """Take the next token and return what it completes; nothing once a stop token came."""
        if self.stopped:
            return []
        self.tokens += 1
        if self.ttft_ms is None:
            self.ttft_ms = (time.perf_counter() - self._begun) * 1000
        if isinstance(token, int) and token in self._stop_ids:
            self.stopped = True
            return []
        chunk = token if isinstance(token, bytes) else self._token_bytes[token] or b""
        chunk = chunk.removeprefix(b" ") if self._blank and self.tokens == 1 else chunk
        return self._sift(self._parser.feed(chunk))

    def close(self, failure: str = "", interrupted: bool = False) -> list[Event]:
        """End the answer.

        Args:
            failure: Why the model failed, if it did.
            interrupted: Whether it was cut short.

        Returns:
            What was held back, a `Fault` where the model failed, and `Done` at last.
        """
        events: list[Event] = [Fault("model", failure)] if failure else []
        reason: Reason = "interrupted" if failure or interrupted else "stop" if self.stopped else "length"
        # A tag that was cut off by an interruption is nobody's mistake.
        rest = [event for event in self._parser.close() if not (interrupted and isinstance(event, Fault))]
        return [*events, *self._sift(rest), Done(reason, self.ttft_ms, self.tokens)]

    def _sift(self, events: list[Event]) -> list[Event]:
        if self._dropped is None:
            return events
        self._dropped.update(event.kind for event in events if isinstance(event, Fault))
        return [event for event in events if not isinstance(event, Fault)]
