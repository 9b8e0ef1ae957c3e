"""Forward answers to LiveTalking: words to ``/human``, actions to ``/set_audiotype``, in order.

LiveTalking (``docs/api.md``, ``server/routes.py``) says nothing about order: words queue there while an action takes
effect at once. So an action waits until the ``end`` events of ``/sse`` tell that all words before it were said. The
session of a question is LiveTalking's ``sessionid``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from actune.script.events import Act, Say
from actune.serve.answer import Answer
from actune.serve.chunks import Sentences
from actune.serve.perform import Stage

log = logging.getLogger(__name__)

# A lost `end` event must not stop the show: so many seconds, and so many for each character said.
WAIT_SECONDS, WAIT_PER_CHAR = 10.0, 0.5
HTTP_SECONDS = 10.0


class LiveTalking:
    """The forwarder.

    Args:
        url: Where LiveTalking is.
        clips: The number (audiotype, 2 and up) of each action's clip; another action is left out, with a warning.
    """

    def __init__(self, url: str, clips: Mapping[str, int]) -> None:
        self._url, self._clips = url.rstrip("/"), dict(clips)
        self.perform = Stage(self._play)

    async def _play(self, answer: Answer, who: str) -> None:
        ends, cutter = _Ends(self._url, who), Sentences()
        await ends.start()
        sent = chars = 0
        finished = False
        try:
            async for event in answer.follow():
                for piece in cutter.feed(event):
                    if isinstance(piece, Say) and piece.text.strip():
                        words = {"type": "echo", "text": piece.text.strip(), "interrupt": sent == 0}
                        await self._post("/human", who, words)
                        sent, chars = sent + 1, chars + len(piece.text)
                    elif isinstance(piece, Act):
                        await ends.wait(sent, WAIT_SECONDS + WAIT_PER_CHAR * chars)
                        chars = 0
                        await self._act(piece.name, who)
            finished = answer.done is not None and answer.done.reason != "interrupted"
        finally:
            ends.stop()
            if not finished:
                with contextlib.suppress(OSError):
                    await self._post("/interrupt_talk", who, {})

    async def _act(self, name: str, who: str) -> None:
        if name in self._clips:
            await self._post("/set_audiotype", who, {"audiotype": self._clips[name]})
        else:
            log.warning("LiveTalking has no clip for %r", name)

    async def _post(self, path: str, who: str, data: dict[str, Any]) -> None:
        body = json.dumps({"sessionid": who} | data).encode()
        request = urllib.request.Request(self._url + path, body, {"Content-Type": "application/json"})

        def post() -> None:
            with urllib.request.urlopen(request, timeout=HTTP_SECONDS) as response:
                answer = json.load(response)
            if answer.get("code") != 0:
                raise ValueError(f"LiveTalking {path}: {answer.get('msg')}")

        await asyncio.to_thread(post)


class _Ends:
    """Counts the ends of sentences that LiveTalking reports for a session."""

    def __init__(self, url: str, who: str) -> None:
        self._request = urllib.request.Request(f"{url}/sse?sessionid={urllib.parse.quote(who)}")
        self._loop = asyncio.get_running_loop()
        self._count, self._news, self._open = 0, asyncio.Event(), asyncio.Event()
        self._stopped = False

    async def start(self) -> None:
        """Begin to listen; an end before that would be missed."""
        threading.Thread(target=self._listen, name="actune-livetalking", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._open.wait(), HTTP_SECONDS)

    def stop(self) -> None:
        """Listen no more; the thread ends with its next line."""
        self._stopped = True

    async def wait(self, count: int, seconds: float) -> None:
        """Wait until so many ends came, or for so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._count < count:
                    self._news.clear()
                    await self._news.wait()

    def _listen(self) -> None:
        try:
            with urllib.request.urlopen(self._request, timeout=HTTP_SECONDS * 60) as response:
                self._tell(self._open.set)
                for line in response:
                    if self._stopped:
                        return
                    if line.startswith(b"data:") and json.loads(line[5:]).get("status") == "end":
                        self._tell(self._ended)
        except (OSError, ValueError) as error:
            log.warning("LiveTalking tells no ends of sentences: %s", error)
        self._tell(self._open.set)

    def _tell(self, what: Any) -> None:
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody listens.
            self._loop.call_soon_threadsafe(what)

    def _ended(self) -> None:
        self._count += 1
        self._news.set()
