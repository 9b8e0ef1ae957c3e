"""Many answers at a time from an engine that knows only streams: a thread for each."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

from actune.engine.protocol import End, Engine, EngineError, Token
from actune.errors import UserError

if TYPE_CHECKING:
    from actune.engine.local import Request

# Seconds that a step may wait for a token, so that who steps can look at the clock in between.
_PATIENCE = 0.05


class StreamBatch:
    """A batch of streams; see `protocol.Batch`.

    Args:
        engine: Whose `stream` is used, by several threads at once.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine, self._tickets = engine, 0
        self._news: queue.SimpleQueue[tuple[int, Token | End]] = queue.SimpleQueue()
        self._live: set[int] = set()

    def __len__(self) -> int:
        """Answers that are not at their end."""
        return len(self._live)

    def add(self, request: Request) -> int:
        """Begin an answer and return its ticket, counted from 0."""
        ticket = self._tickets
        self._tickets += 1
        self._live.add(ticket)
        # A daemon: a server that is silent must not keep the program from ending.
        threading.Thread(target=self._run, args=(ticket, request), name=f"actune-{ticket}", daemon=True).start()
        return ticket

    def step(self) -> list[tuple[int, Token | End]]:
        """Return what has come; nothing if nothing came for a moment. The last of each answer is an `End`."""
        result: list[tuple[int, Token | End]] = []
        try:
            result.append(self._news.get(timeout=_PATIENCE))
            while True:
                result.append(self._news.get_nowait())
        except queue.Empty:
            pass
        result = [(ticket, token) for ticket, token in result if ticket in self._live]
        self._live -= {ticket for ticket, token in result if isinstance(token, End)}
        return result

    def drop(self, ticket: int) -> None:
        """Forget an answer; its stream is closed when its next token comes."""
        self._live.discard(ticket)

    def _run(self, ticket: int, request: Request) -> None:
        end = End(EngineError(f"{self._engine} broke down"))  # unless one of these is reached
        try:
            for token in self._engine.stream(request):
                if ticket not in self._live:
                    return
                self._news.put((ticket, token))
            end = End()
        except (ArithmeticError, EngineError, UserError) as error:
            # Whoever steps gets it: a thread has nobody to tell.
            end = End(error)
        finally:
            self._news.put((ticket, end))
