"""Let a body perform answers: one at a time for each user, a new one cuts the one before."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from actune.serve.answer import Answer

log = logging.getLogger(__name__)


class Stage:
    """Runs a body's performances in the background.

    Args:
        play: Performs an answer for a user; it is cancelled when a new one begins.
    """

    def __init__(self, play: Callable[[Answer, str], Awaitable[None]]) -> None:
        self._play = play
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def __call__(self, answer: Answer, who: str) -> None:
        """Begin a performance. An answer that has a performer is still its asker's: this only follows it."""
        before = self._tasks.get(who)
        task = self._tasks[who] = asyncio.get_running_loop().create_task(self._run(answer, who, before))
        task.add_done_callback(lambda done: self._tasks.pop(who) if self._tasks.get(who) is done else None)

    async def _run(self, answer: Answer, who: str, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            before.cancel()
            await asyncio.wait([before])
        try:
            await self._play(answer, who)
        except (OSError, ValueError) as error:
            # A body that is away must not disturb who asked.
            log.warning("a body could not perform: %s", error)
