"""Responses that last: a stream whose end is always noticed, and waiting for a client that may leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, MutableMapping
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from actune.script.events import Event
from actune.serve.answer import Answer

PING_SECONDS = 15.0
# A reader that takes nothing for so long is not coming back; its connection would stay for ever.
SEND_SECONDS = 60.0
PING = ": ping\n\n"


class Stream(StreamingResponse):
    """A server-sent event stream.

    Args:
        frames: Its frames.
        leave: Called when it is over, whichever way: to its end, because the client left, or because it was cut.
    """

    def __init__(self, frames: AsyncIterator[str], leave: Callable[[], None]) -> None:
        super().__init__(frames, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the response."""

        async def send_soon(message: MutableMapping[str, Any]) -> None:
            async with asyncio.timeout(SEND_SECONDS):
                await send(message)
            # Others' turn, and the loop's to notice that the client has gone: many frames may be ready at once.
            await asyncio.sleep(0)

        try:
            await super().__call__(scope, receive, send_soon)
        except TimeoutError:
            pass  # A reader that takes nothing: the connection is closed by whoever called.
        finally:
            self._leave()


def frame(data: Any, id: str = "") -> str:
    """Write one server-sent event."""
    head = f"id: {id}\n" if id else ""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return f"{head}data: {text}\n\n"


async def whole_or_gone(request: Request, answer: Answer, leave: Callable[[], None]) -> list[Event]:
    """Wait for an answer's end while its client waits; when the client leaves, so do we."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        leave()

    watch = asyncio.create_task(gone())
    try:
        return await answer.whole()
    finally:
        watch.cancel()
        leave()
