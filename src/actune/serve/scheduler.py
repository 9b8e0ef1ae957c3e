"""The scheduler: one thread runs an engine's batch; answers join and leave it between two steps.

What it needs of an actor, whatever the engine: ``request(...)``, ``reader(names)`` and ``tuned`` as `Actor` has them,
``engine.context``, and ``engine.batch()`` (see `engine.protocol`).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from actune.engine.protocol import Batch
from actune.script.acting import Acting
from actune.script.events import Event
from actune.serve.answer import Answer, Asked
from actune.serve.job import Job, Watch
from actune.serve.metrics import Metrics
from actune.serve.stops import Stops

if TYPE_CHECKING:
    from actune.engine.local import Request

# Nats; no doubt of a model is that strong.
FORCE = 1e4
log = logging.getLogger(__name__)


class Busy(Exception):
    """The queue is full. `retry_after` is in seconds."""

    def __init__(self, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__(f"too many requests wait; try again in {retry_after} s")


class Stopping(Exception):
    """The server is going down."""


class Scheduler:
    """Answers questions, many at a time. Its methods belong to the event loop that calls `start`.

    Args:
        actor: Who answers.
        metrics: Where it counts.
        max_batch: Answers written together.
        max_queue: Answers that may wait for a place; one more is refused.
        timeout: Seconds an answer may take, waiting included; then it is cut.
    """

    def __init__(
        self, actor: Any, metrics: Metrics, max_batch: int = 16, max_queue: int = 64, timeout: float = 120.0
    ) -> None:
        self._actor, self._metrics = actor, metrics
        self._max_batch, self._max_queue, self._timeout = max_batch, max_queue, timeout
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._jobs: dict[Answer, Job] = {}
        self._rendering = 0
        self._closing = self._cut = False
        # One thread: a tokenizer must not be used by two at once.
        self._renderer = ThreadPoolExecutor(1, "actune-render")
        self._thread = threading.Thread(target=self._run, name="actune-batch", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin; to be called on the event loop that will ask."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it takes questions."""
        return self._thread.is_alive() and not self._closing

    @property
    def waiting(self) -> int:
        """Answers that have no place in the batch yet."""
        return self._rendering + len(self._waiting)

    @property
    def running(self) -> int:
        """Answers that are being written."""
        return len(self._running)

    async def ask(self, asked: Asked) -> Answer:
        """Put a question.

        Returns:
            Its answer, empty at first.

        Raises:
            Busy: The queue is full.
            Stopping: `stop` was called.
            UserError: The prompt does not fit.
            ValueError: A name is not allowed.
        """
        if not self.alive or self._loop is None:
            raise Stopping
        if self.waiting >= self._max_queue:
            self._metrics.refused.inc()
            raise Busy(1 + self.waiting // self._max_batch)
        deadline, reader = time.monotonic() + self._timeout, self._actor.reader(asked.names)
        answer = Answer(asked)
        self._rendering += 1
        try:
            request = await self._loop.run_in_executor(self._renderer, self._render, asked, watch := Watch())
        finally:
            self._rendering -= 1
        answer.prompt_tokens = len(request.prompt)
        job = self._jobs[answer] = Job(answer, request, reader, Stops(asked.stop), watch, deadline)
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()
        return answer

    def drop(self, answer: Answer) -> None:
        """Cut an answer short; its place is free before the next step. One that has ended is left as it is."""
        if job := self._jobs.get(answer):
            with self._changed:
                job.dropped = True
                self._changed.notify()

    async def stop(self, grace: float = 10.0) -> None:
        """Refuse new questions, let what runs end, and cut what has not ended after `grace` seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.ident is None:
            return
        await asyncio.to_thread(self._thread.join, grace)
        with self._changed:
            self._cut = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)
        self._renderer.shutdown(wait=False)

    def _render(self, asked: Asked, watch: Watch) -> Request:
        request: Request = self._actor.request(
            asked.question,
            asked.names,
            asked.history,
            asked.persona,
            asked.max_tokens,
            asked.temperature,
            asked.top_p,
            asked.seed,
        )
        # An untuned base would write `<` for ever: it never learned what comes after it.
        force = asked.force and self._actor.tuned
        acting = replace(request.acting or Acting(), bias=FORCE, gate=None) if force else request.acting
        return replace(request, acting=acting, watch=watch)

    def _run(self) -> None:
        """The thread."""
        batch: Batch = self._actor.engine.batch()
        while self._wait():
            try:
                self._leave(batch)
                self._join(batch)
                self._step(batch)
            except Exception as error:
                # Whatever the engine does, the server stays: these answers end, the next ones get a fresh batch.
                log.exception("the engine failed")
                for job in self._running:
                    job.close(failure=str(error) if isinstance(error, ArithmeticError) else type(error).__name__)
                self._report()
                batch = self._actor.engine.batch()

    def _wait(self) -> bool:
        """Sleep while there is nothing to do; False ends the thread."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._running or self._closing)
            return bool(self._waiting or self._running)

    def _leave(self, batch: Batch) -> None:
        """Take out what was dropped or is late."""
        now = time.monotonic()
        with self._changed:
            jobs = [*self._running, *self._waiting]
        for job in jobs:
            late = now > job.deadline
            if job.dropped or late or self._cut:
                job.close(failure="timeout" if late and not job.dropped else "", interrupted=True)
                if job.ticket is not None:
                    batch.drop(job.ticket)
        self._report()

    def _join(self, batch: Batch) -> None:
        """Take in what waits, as far as there is room."""
        context = self._actor.engine.context
        while self._waiting and len(self._running) < self._max_batch:
            with self._changed:
                job = self._waiting.popleft()
                self._running.append(job)
            room = job.request.max_tokens if context is None else context - len(job.request.prompt)
            job.left = min(job.request.max_tokens, room)
            job.ticket = batch.add(job.request)
            if job.left <= 0:
                job.close()

    def _step(self, batch: Batch) -> None:
        if len(batch):
            by_ticket = {job.ticket: job for job in self._running if not job.ended}
            for ticket, token in batch.step():
                if job := by_ticket.get(ticket):
                    job.read(token)
                    if job.stops.hit:
                        batch.drop(ticket)
        self._report()

    def _report(self) -> None:
        """Hand what came to the event loop, and forget who has ended."""
        with self._changed:
            jobs = [*self._running, *self._waiting]
            self._waiting = deque(job for job in self._waiting if not job.ended)
            self._running = [job for job in self._running if not job.ended]
        news: list[tuple[Job, list[Event]]] = []
        for job in jobs:
            if job.events:
                news.append((job, job.events))
                job.events = []
        if news and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, news)

    def _deliver(self, news: Sequence[tuple[Job, list[Event]]]) -> None:
        for job, events in news:
            if job.ended:
                job.answer.prevented = job.watch.count
            job.answer.extend(events)
            self._metrics.count(events)
            if job.answer.done:
                del self._jobs[job.answer]
                self._metrics.end(job.answer, time.perf_counter() - job.answer.begun)
