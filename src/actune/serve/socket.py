"""Events in order over a WebSocket, both ways: ask, interrupt, ask again.

The client sends ``{"type": "ask", "question": …}`` (the fields of ``POST /act``), ``{"type": "interrupt", "heard":
"…"}``, ``{"type": "reset"}`` or ``{"type": "ping"}``. It gets events, ``{"type": "pong"}``, and for a mistake
``{"type": "refused", "error": {…}}``. A new question interrupts the answer that is still coming.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from actune.errors import UserError
from actune.serve.act import ask, wire_events
from actune.serve.answer import Answer
from actune.serve.errors import ApiError, as_api_error, error_body
from actune.serve.house import House
from actune.serve.scheduler import Busy, Scheduler, Stopping
from actune.serve.sessions import Session
from actune.serve.stream import SEND_SECONDS
from actune.serve.wire import Act

PROTOCOL = "actune"


def socket_routes(house: House) -> APIRouter:
    """Make the route ``/ws``."""
    router = APIRouter()

    @router.websocket("/ws")
    async def ws(socket: WebSocket) -> None:
        # One who brings its key as a subprotocol must be answered with a subprotocol.
        await socket.accept(PROTOCOL if PROTOCOL in socket.scope["subprotocols"] else None)
        talk = _Talk(house, socket)
        try:
            while True:
                await talk.hear(await socket.receive_text())
        except (WebSocketDisconnect, TimeoutError, KeyError):
            pass  # Gone, takes nothing, or sends bytes: a binary frame has no text.
        finally:
            await talk.end()

    return router


class _Talk:
    """One connection."""

    def __init__(self, house: House, socket: WebSocket) -> None:
        self._house, self._socket = house, socket
        self._session = Session()
        self._running: tuple[Scheduler, Answer] | None = None
        self._speaking: asyncio.Task[None] | None = None

    async def hear(self, text: str) -> None:
        """Do what a message says."""
        try:
            message = json.loads(text)
            match message:
                case {"type": "ask"}:
                    await self._ask(message)
                case {"type": "interrupt"}:
                    await self._interrupt(message.get("heard"))
                case {"type": "reset"}:
                    await self._interrupt(None)
                    self._session = Session()
                case {"type": "ping"}:
                    await self._send({"type": "pong"})
                case _:
                    raise ApiError("send a type: ask, interrupt, reset or ping")
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            await self._refuse(ApiError(f"{where}: {first['msg']}", param=where))
        except (ApiError, UserError, Busy, Stopping, ValueError) as error:
            await self._refuse(as_api_error(error))

    async def end(self) -> None:
        """The client is gone."""
        if self._running:
            self._running[0].drop(self._running[1])
        if self._speaking:
            self._speaking.cancel()

    async def _ask(self, message: dict[str, Any]) -> None:
        body = Act.model_validate(message)
        await self._interrupt(body.heard)
        session = self._house.sessions.get(body.session) if body.session else self._session
        self._running = await ask(self._house, body, session, body.session)
        self._session = session
        self._speaking = asyncio.create_task(self._speak(self._running[1], body.chunk == "sentence"))

    async def _interrupt(self, heard: Any) -> None:
        """Cut the answer that is coming, and wait until its last event is sent."""
        if isinstance(heard, str):
            self._session.heard = heard
        if self._running and self._speaking:
            self._running[0].drop(self._running[1])
            await self._speaking

    async def _speak(self, answer: Answer, sentences: bool) -> None:
        try:
            async for event in wire_events(answer, sentences):
                if event is not None:
                    await self._send(event)
        except (WebSocketDisconnect, RuntimeError, TimeoutError):
            # It cannot be told anything more; the reading side sees the end.
            if self._running:
                self._running[0].drop(answer)

    async def _refuse(self, error: ApiError) -> None:
        await self._send({"type": "refused"} | error_body(error.message, error.status, error.code, error.param))

    async def _send(self, data: dict[str, Any]) -> None:
        async with asyncio.timeout(SEND_SECONDS):
            await self._socket.send_text(json.dumps(data, ensure_ascii=False))
