"""An actor without a model, and a server on a free port, for the tests of the serve room."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import uvicorn

from actune.engine.local import Request
from actune.reader import Reader
from actune.serve.app import build
from actune.serve.house import Defaults, House
from actune.serve.metrics import Metrics
from actune.serve.run import listen
from actune.serve.scheduler import Scheduler

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
        self._pause, self.tuned = pause, True
        self.engine = SimpleNamespace(batch=self._batch, context=context)

    def _batch(self) -> FakeBatch:
        self.batches.append(FakeBatch(self._script, self._pause))
        return self.batches[-1]

    def request(self, question: str, names: Sequence[str], history=(), persona="", max_tokens=256, *sampling):
        self.asked.append((question, tuple(names), tuple(history), persona, max_tokens, *sampling))
        return Request(list(question.encode()), tuple(names), max_tokens, *sampling)

    def reader(self, names) -> Reader:
        return Reader([bytes([byte]) for byte in range(256)] + [None], [STOP], names, False)


def run(coroutine):
    """Run a coroutine, for ten seconds at most."""

    async def limited():
        async with asyncio.timeout(10):
            return await coroutine

    return asyncio.run(limited())


@contextlib.contextmanager
def server(actor, *, key: str = "", origins=(), names=(), dialect="native", persona="", bodies=(), beside=(), **limits):
    """Serve an actor on a free port in a thread; yields it."""
    metrics = Metrics()
    defaults = Defaults(tuple(names), persona, dialect)
    house = House(
        {"tiny": Scheduler(actor, metrics, **limits)}, defaults, metrics, bodies=list(bodies), beside=list(beside)
    )
    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(build(house, key, origins), log_level="warning", timeout_graceful_shutdown=1)
    uvicorn_server = uvicorn.Server(config)
    thread = threading.Thread(target=uvicorn_server.run, args=([listener],), daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not uvicorn_server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    yield Served(f"http://127.0.0.1:{listener.getsockname()[1]}", house, actor)
    uvicorn_server.should_exit = True
    thread.join(10)


@dataclass
class Served:
    """A running server."""

    url: str
    house: House
    actor: FakeActor

    def post(self, path: str, body, headers=None) -> tuple[int, dict, str]:
        """Post JSON (or text as it is); return status, headers and body."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = {"Content-Type": "application/json"} | (headers or {})
        return self._open(urllib.request.Request(self.url + path, data, head))

    def get(self, path: str, headers=None) -> tuple[int, dict, str]:
        return self._open(urllib.request.Request(self.url + path, headers=headers or {}))

    def _open(self, request) -> tuple[int, dict, str]:
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, dict(response.headers), response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read().decode()

    def cut(self) -> int:
        """Wait until nothing runs; return how many answers were cut short so far."""
        assert self.idle()
        labels = {"finish_reason": "interrupted"}
        return int(self.house.metrics.registry.get_sample_value("actune_answers_total", labels) or 0)

    def idle(self) -> bool:
        """Wait until nothing runs; False if something does not end."""
        deadline = time.monotonic() + 5
        schedulers = self.house.models.values()
        while any(s.running or s.waiting or s._jobs for s in schedulers) and time.monotonic() < deadline:
            time.sleep(0.005)
        return not any(s.running or s.waiting or s._jobs for s in schedulers)


def sse(text: str) -> list[dict]:
    """Read the JSON of a server-sent event stream."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]
