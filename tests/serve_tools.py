"""An actor without a model, and a server on a free port, for the tests of the serve room."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

from actune.engine.local import Request
from actune.reader import Reader

STOP = 256


@dataclass
class FakeBatch:
    """Writes scripts byte by byte: what `script(request)` says, for each request of its own."""

    script: Callable[[Request], str]
    pause: float = 0.0
    fail: list[Exception] = field(default_factory=list)
    rows: dict[int, list[int]] = field(default_factory=dict)
    added: int = 0
    largest: int = 0

    def add(self, request: Request) -> int:
        self.added += 1
        self.rows[self.added] = [*self.script(request).encode(), STOP][: request.max_tokens]
        return self.added

    def step(self) -> list[tuple[int, int]]:
        if self.pause:
            time.sleep(self.pause)
        if self.fail:
            raise self.fail.pop()
        self.largest = max(self.largest, len(self.rows))
        tokens = [(ticket, row.pop(0)) for ticket, row in self.rows.items()]
        self.rows = {ticket: row for ticket, row in self.rows.items() if row}
        return tokens

    def drop(self, ticket: int) -> None:
        self.rows.pop(ticket, None)

    def __len__(self) -> int:
        return len(self.rows)


class FakeActor:
    """An actor whose prompt is the question's bytes and whose engine is a `FakeBatch`."""

    def __init__(self, script: Callable[[Request], str] | str, pause: float = 0.0, context: int | None = None) -> None:
        self.batches: list[FakeBatch] = []
        self.asked: list[tuple] = []
        self._script = script if callable(script) else lambda request: script
        self._pause = pause
        self.engine = SimpleNamespace(batch=self._batch, context=context)

    def _batch(self) -> FakeBatch:
        self.batches.append(FakeBatch(self._script, self._pause))
        return self.batches[-1]

    def request(self, question: str, names: Sequence[str], history=(), persona="", max_tokens=256, *sampling):
        self.asked.append((question, tuple(names), tuple(history), persona, max_tokens, *sampling))
        return Request(list(question.encode()), tuple(names), max_tokens, *sampling)

    def reader(self, names) -> Reader:
        return Reader([bytes([byte]) for byte in range(256)] + [None], [STOP], names, False)


@contextlib.contextmanager
def running(loop_body: Callable[[], None]) -> Iterator[None]:
    """Run something in a thread meanwhile."""
    thread = threading.Thread(target=loop_body, daemon=True)
    thread.start()
    yield
    thread.join(10)


def run(coroutine):
    """Run a coroutine, for ten seconds at most."""

    async def limited():
        async with asyncio.timeout(10):
            return await coroutine

    return asyncio.run(limited())
