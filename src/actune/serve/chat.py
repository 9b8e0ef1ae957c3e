"""The OpenAI protocol: models and chat completions."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from actune.script.catalogue import catalogue
from actune.script.dialects import Spelling
from actune.script.events import Done
from actune.serve.answer import Answer, Asked
from actune.serve.completion import Completion, failure
from actune.serve.document import Card, Cards, answers
from actune.serve.errors import ApiError, error_body
from actune.serve.house import House
from actune.serve.messages import Dialogue, read_messages
from actune.serve.stream import PING, PING_SECONDS, Stream, frame, whole_or_gone
from actune.serve.wire import Completion as Body
from actune.serve.wire import NamedTool


def chat_routes(house: House) -> APIRouter:
    """Make the routes under ``/v1``."""
    router, begun = APIRouter(prefix="/v1", tags=["OpenAI protocol"]), int(time.time())

    def card(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": begun, "owned_by": "actune"}

    @router.get("/models", responses=answers(model=Cards))
    async def models() -> dict[str, Any]:
        """List the models."""
        return {"object": "list", "data": [card(name) for name in house.models]}

    @router.get("/models/{model:path}", responses=answers(model=Card))
    async def model(model: str) -> dict[str, Any]:
        """Show a model."""
        house.pick(model)
        return card(model)

    @router.post(
        "/chat/completions", responses=answers("application/json", "text/event-stream"), response_class=Response
    )
    async def completions(body: Body, request: Request) -> Response:
        """Answer the last message, whole or as a stream."""
        return await _complete(house, body, request)

    return router


async def _complete(house: House, body: Body, request: Request) -> Response:
    scheduler = house.pick(body.model)
    names, calls = _actions(house, body)
    spelling = Spelling(body.dialect or house.defaults.dialect, names)
    dialogue = read_messages([message.model_dump() for message in body.messages], spelling)
    if calls:
        spelling = Spelling("none", names)
    writer = Completion(body.model or next(iter(house.models)), spelling, dialogue.calls if calls else None)
    answer = None
    if (asked := _asked(house, body, names, dialogue)) is not None:
        answer = await scheduler.ask(asked)
        house.perform(answer, body.user)

    def leave() -> None:
        if answer is not None:
            scheduler.drop(answer)

    if body.stream:
        usage = bool(body.stream_options and body.stream_options.include_usage)
        return Stream(_frames(writer, answer, usage), leave)
    events = await whole_or_gone(request, answer, leave) if answer else [Done()]
    return JSONResponse(writer.whole(events, answer))


def _actions(house: House, body: Body) -> tuple[tuple[str, ...], bool]:
    """Return the actions offered, and whether they are tools.

    Raises:
        ApiError: A tool needs data, or there are two lists.
        ValueError: A name is not allowed.
    """
    if not body.tools:
        return house.defaults.names if body.actions is None else tuple(body.actions), False
    if body.actions is not None:
        raise ApiError("give the actions as tools or as actions, not both", param="actions")
    for tool in body.tools:
        if (tool.function.parameters or {}).get("required"):
            message = f"the tool {tool.function.name!r} needs arguments; an action has none"
            raise ApiError(message, code="tool_needs_arguments", param="tools")
    names = catalogue(tool.function.name for tool in body.tools)
    if isinstance(body.tool_choice, NamedTool):
        if body.tool_choice.function.name not in names:
            raise ApiError("tool_choice names no tool of the list", param="tool_choice")
        return (body.tool_choice.function.name,), True
    return () if body.tool_choice == "none" else names, True


def _asked(house: House, body: Body, names: tuple[str, ...], dialogue: Dialogue) -> Asked | None:
    if dialogue.question is None:
        return None
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    # A tool that is asked for by name, or any that is required.
    force = bool(body.tools) and (body.tool_choice == "required" or isinstance(body.tool_choice, NamedTool))
    budget = body.max_completion_tokens
    return house.asked(body, dialogue.question, names, dialogue.history, dialogue.persona, budget, stop, force=force)


async def _frames(writer: Completion, answer: Answer | None, usage: bool) -> AsyncIterator[str]:
    yield frame(writer.chunk({"role": "assistant", "content": ""}))
    if answer is None:
        yield frame(writer.chunk({}, "stop"))
    else:
        async for event in answer.beats(PING_SECONDS):
            if event is None:
                yield PING
            elif failed := failure(event):
                yield frame(error_body(failed.message, failed.status, failed.code))
                break
            elif isinstance(event, Done):
                yield frame(writer.chunk({}, writer.finish(event)))
            elif delta := writer.delta(event):
                yield frame(writer.chunk(delta))
    if usage:
        yield frame(writer.usage_chunk(answer))
    yield frame("[DONE]")
