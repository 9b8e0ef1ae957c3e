"""Events in order: ``POST /act`` answers as a server-sent event stream that can be taken up again."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Header
from fastapi.responses import Response

from actune.data.rows import Turn
from actune.script.events import Done, to_json
from actune.serve.answer import Answer
from actune.serve.chunks import Sentences
from actune.serve.document import answers
from actune.serve.errors import ApiError
from actune.serve.house import House
from actune.serve.scheduler import Scheduler
from actune.serve.sessions import Session
from actune.serve.stream import PING, PING_SECONDS, Stream, frame
from actune.serve.wire import Act

# How long an answer that may be resumed waits for its client, and how many do.
KEEP_SECONDS, KEEP_ANSWERS = 60.0, 256


@dataclass
class _Kept:
    """An answer that may be taken up again."""

    answer: Answer
    scheduler: Scheduler
    sentences: bool
    readers: int = 0


def act_routes(house: House) -> APIRouter:
    """Make the route ``/act``."""
    router, kept = APIRouter(tags=["events"]), dict[str, _Kept]()

    def take_up(last: str) -> Response:
        id, _, seq = last.rpartition(".")
        if id not in kept or not seq.isascii() or not seq.isdigit():
            raise ApiError("there is no answer to resume under this Last-Event-ID", 404, "unknown_event_id")
        return _stream(kept, id, int(seq) + 1)

    @router.post("/act", responses=answers("text/event-stream"), response_class=Response)
    async def act(body: Act, last_event_id: str | None = Header(None)) -> Response:
        """Answer a question with words and actions in their order; with `Last-Event-ID`, go on with an answer."""
        if last_event_id:
            return take_up(last_event_id)
        session = house.sessions.get(body.session) if body.session else None
        scheduler, answer = await ask(house, body, session, body.session)
        id = uuid.uuid4().hex
        kept[id] = _Kept(answer, scheduler, body.chunk == "sentence")
        if body.resume and len(kept) > KEEP_ANSWERS:
            kept.pop(next(id for id, one in kept.items() if one.answer is not answer))
        return _stream(kept, id, 0, body.resume)

    @router.get("/act/resume", responses=answers("text/event-stream"), response_class=Response)
    async def resume(last_event_id: str = Header()) -> Response:
        """Go on with an answer whose stream was lost."""
        return take_up(last_event_id)

    return router


async def ask(house: House, body: Act, session: Session | None, who: str | None) -> tuple[Scheduler, Answer]:
    """Put a question of a session.

    Raises:
        ApiError: There is no such model.
        Exception: See `Scheduler.ask`.
    """
    scheduler, names = house.pick(body.model), body.actions
    history: tuple[Turn, ...] = ()
    if session is not None:
        session.heard = body.heard if body.heard is not None else session.heard
        history, names = session.history(), names if names is not None or session.names is None else list(session.names)
    if body.history is not None:
        history = tuple(Turn(turn.role, turn.text) for turn in body.history)
    answer = await scheduler.ask(house.asked(body, body.question, names, history, body.persona))
    if session is not None:
        if body.history is not None:
            session.turns, session.last = list(history), None
        session.begin(answer)
        session.names = answer.asked.names
    house.perform(answer, who)
    return scheduler, answer


async def wire_events(answer: Answer, sentences: bool, first: int = 0) -> AsyncIterator[dict[str, Any] | None]:
    """Yield an answer's events in their wire form from a number on, and None when it is time for a ping."""
    seq, cutter = 0, Sentences()
    async for event in answer.beats(PING_SECONDS):
        if event is None:
            yield None
            continue
        for piece in cutter.feed(event) if sentences else [event]:
            if seq >= first:
                more = {"prevented": answer.prevented} if isinstance(piece, Done) else {}
                yield to_json(piece, seq) | more
            seq += 1


def _stream(kept: dict[str, _Kept], id: str, first: int, resume: bool = True) -> Response:
    one = kept[id]
    one.readers += 1

    async def frames() -> AsyncIterator[str]:
        async for event in wire_events(one.answer, one.sentences, first):
            yield PING if event is None else frame(event, f"{id}.{event['seq']}")

    def leave() -> None:
        one.readers -= 1
        if not resume:
            one.scheduler.drop(one.answer)
            kept.pop(id, None)
        elif not one.readers:
            asyncio.get_running_loop().call_later(KEEP_SECONDS, forget)

    def forget() -> None:
        if not one.readers:
            one.scheduler.drop(one.answer)
            kept.pop(id, None)

    return Stream(frames(), leave)
