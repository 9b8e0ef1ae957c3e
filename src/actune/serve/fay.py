"""In Fay's place: bodies made for Fay (Unreal, Unity, Live2D) connect to us as to its port 10002 and get its frames.

The frames are those of Fay's ``core/fay_core.py`` and ``docs/Fay侧标准动作改造说明.md``. There is no sound: ``audio``
frames come without a file, for bodies that speak by themselves. Fay has at most one action beside a sentence; here an
action has a frame of its own, so that the order stays exact.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import uuid
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin

from actune.script.events import Act, Done, Say
from actune.serve.answer import Answer
from actune.serve.chunks import Sentences
from actune.serve.perform import Stage

USER = "User"
SEND_SECONDS = 3.0
# How long words take to say, roughly: Fay tells the length of its sound.
SECONDS_PER_CHAR = 0.2


class Fay:
    """The server of port 10002, and the body that performs through it."""

    def __init__(self) -> None:
        self._clients: dict[ServerConnection, str] = {}
        self.perform = Stage(self._play)

    def serve(self, listener: socket.socket, origins: Sequence[str]) -> AbstractAsyncContextManager[Any]:
        """Serve bodies, at any path, while the context lasts.

        Args:
            listener: A listening socket.
            origins: Web origins whose pages may connect; programs, which have none, may always.
        """
        allowed = [None, *map(Origin, origins)]
        return serve(self._connect, sock=listener, origins=allowed, max_size=65536, ping_interval=10, ping_timeout=5)

    async def _connect(self, client: ServerConnection) -> None:
        self._clients[client] = USER
        try:
            async for text in client:
                with contextlib.suppress(ValueError):
                    message = json.loads(text)
                    if isinstance(message, dict) and isinstance(message.get("Username"), str):
                        self._clients[client] = message["Username"]
        finally:
            self._clients.pop(client, None)

    async def _play(self, answer: Answer, who: str) -> None:
        talk, first, number = uuid.uuid4().hex, True, 0
        cutter = Sentences()
        async for event in answer.follow():
            for piece in cutter.feed(event):
                base = {"CONV_ID": talk, "CONV_MSG_NO": number, "IsFirst": int(first), "IsEnd": 0}
                frames = _frames(piece, base)
                for frame in frames:
                    await self._send(frame, who)
                first, number = first and not frames, number + bool(frames)

    async def _send(self, data: dict[str, Any], who: str) -> None:
        text = json.dumps({"Topic": "human", "Data": data, "Username": who}, ensure_ascii=False)
        for client in [client for client, name in self._clients.items() if name == who]:
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await client.send(text)
            except (TimeoutError, ConnectionClosed):
                self._clients.pop(client, None)


def _frames(piece: object, base: dict[str, Any]) -> list[dict[str, Any]]:
    audio = {"Key": "audio", "Value": "", "HttpValue": "", "Type": "interact", "Lips": []}
    match piece:
        case Say(text=text) if text.strip():
            words = text.strip()
            text_frame = {"Key": "text", "Value": words, "IsFirst": base["IsFirst"], "IsEnd": 0}
            return [text_frame, audio | base | {"Text": words, "Time": round(len(words) * SECONDS_PER_CHAR, 2)}]
        case Act(name=name):
            action = {"code": name, "behavior": name.partition("-")[2] or name, "affect": "neutral"}
            return [audio | base | {"Text": "", "Time": 0, "Action": action | {"intensity": 1.0, "priority": 50}}]
        case Done():
            end = base | {"IsEnd": 1}
            return [{"Key": "text", "Value": "", "IsFirst": 0, "IsEnd": 1}, audio | end | {"Text": "", "Time": 0}]
    return []
