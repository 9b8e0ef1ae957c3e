"""A Neuro SDK server: any game made for it plays against the actor.

Follows ``API/SPECIFICATION.md`` of VedalAI/neuro-game-sdk. The protocol has no place for words: what the actor says is
only remembered. An action whose schema needs data is refused, in the log: an actor has names, no data.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, Field, ValidationError

from actune.data.rows import Turn
from actune.errors import UserError
from actune.script.catalogue import name_problem
from actune.script.events import Act, Event, write
from actune.serve.house import House
from actune.serve.scheduler import Busy, Stopping
from actune.serve.wire import MAX_NAMES, Sampling

log = logging.getLogger(__name__)

MAX_CONTEXT = 40
RETRY_SECONDS = 0.5
"""Pause before the second and later retries of a force: a game that always refuses must not keep the model busy."""


class _Action(BaseModel):
    name: str
    description: str = ""
    schema_: dict[str, Any] | None = Field(None, alias="schema")


class _Data(BaseModel):
    """The fields of all commands' data."""

    message: str | None = None
    silent: bool = False
    actions: list[_Action] = []
    action_names: list[str] = []
    state: str | None = None
    query: str = ""
    ephemeral_context: bool | None = None
    id: str = ""
    success: bool = False


class _Message(BaseModel):
    command: str
    game: str = ""
    data: _Data | None = None


def neuro_routes(house: House) -> APIRouter:
    """Make the route ``/neuro``."""
    router = APIRouter()

    @router.websocket("/neuro")
    async def neuro(socket: WebSocket) -> None:
        await socket.accept()
        game = _Game(house, socket)
        player = asyncio.create_task(game.play())
        try:
            while True:
                game.hear(await socket.receive_text())
        except (WebSocketDisconnect, KeyError):
            pass  # Gone, or it sends bytes: the specification wants text.
        finally:
            player.cancel()
            # Whatever it was about to send has nobody to get it.
            await asyncio.gather(player, return_exceptions=True)

    return router


class _Game:
    """One game's connection: a reading side (`hear`) and a playing side (`play`), which does one thing at a time."""

    def __init__(self, house: House, socket: WebSocket) -> None:
        self._house, self._socket = house, socket
        self._actions: dict[str, _Action] = {}
        self._history: list[Turn] = []
        self._silent: list[str] = []
        self._wishes: asyncio.Queue[_Message] = asyncio.Queue()
        self._results: dict[str, asyncio.Future[_Data]] = {}

    def hear(self, text: str) -> None:
        """Take a message of the game."""
        try:
            message = _Message.model_validate_json(text)
        except ValidationError as error:
            log.warning("neuro: a message that is none: %s", error.errors()[0]["msg"])
            return
        data = message.data or _Data()
        match message.command:
            case "startup":
                self._actions, self._history, self._silent = {}, [], []
            case "context" if data.silent:
                self._silent = [*self._silent, data.message or ""][-MAX_CONTEXT:]
            case "context" | "actions/force":
                self._wishes.put_nowait(message)
            case "actions/register":
                self._register(data.actions)
            case "actions/unregister":
                for name in data.action_names:
                    self._actions.pop(name, None)
            case "action/result":
                if waiting := self._results.pop(data.id, None):
                    waiting.set_result(data)
            case other:
                log.warning("neuro: unknown command %r", other)

    def _register(self, actions: list[_Action]) -> None:
        for action in actions:
            if (action.schema_ or {}).get("required"):
                log.warning("neuro: action %r is refused: its schema needs data, an actor has none", action.name)
            elif name_problem(action.name) or len(self._actions) >= MAX_NAMES:
                log.warning("neuro: action %r is refused: %s", action.name, name_problem(action.name) or "too many")
            else:
                # A second registration of a name is ignored, as the specification says.
                self._actions.setdefault(action.name, action)

    async def play(self) -> None:
        """Do what the game wishes, one wish after another."""
        while True:
            wish = await self._wishes.get()
            data = wish.data or _Data()
            try:
                if wish.command == "actions/force":
                    await self._force(data)
                else:
                    await self._respond(data.message or "")
            except (UserError, Busy, Stopping, ValueError) as error:
                log.warning("neuro: %s", error)

    async def _respond(self, message: str) -> None:
        """Answer what happens in the game, with or without an action."""
        question = self._with_silent(message)
        script = await self._answer(question, tuple(self._actions))
        self._remember(question, script)
        for act in script:
            if isinstance(act, Act) and act.name in self._actions:
                await self._do(act.name)

    async def _force(self, data: _Data) -> None:
        """Do one of the named actions, again and again until the game takes it."""
        question = self._with_silent("\n\n".join(filter(None, [data.state, data.query])))
        failed: list[str] = []
        tries = 0
        while True:
            names = [name for name in data.action_names if name in self._actions]
            if not names:
                log.warning("neuro: a force names no action that is registered: %s", data.action_names)
                return
            # What the game has just refused comes last.
            left = [name for name in names if name not in failed]
            failed = failed if left else []
            script = await self._answer(question, tuple(left or names), tries, force=True)
            act = next((event for event in script if isinstance(event, Act)), Act((left or names)[0]))
            result = await self._do(act.name)
            if result.success:
                if not data.ephemeral_context:
                    self._remember(question, [act])
                self._silent += [result.message] if result.message else []
                return
            failed.append(act.name)
            question += f"\n{act.name}: {result.message}" if result.message else ""
            tries += 1
            if tries > 1:
                await asyncio.sleep(RETRY_SECONDS)

    async def _do(self, name: str) -> _Data:
        """Send an action and wait for its result."""
        id = uuid.uuid4().hex
        result: asyncio.Future[_Data] = asyncio.get_running_loop().create_future()
        self._results[id] = result
        await self._socket.send_text(json.dumps({"command": "action", "data": {"id": id, "name": name}}))
        return await result

    async def _answer(self, question: str, names: tuple[str, ...], tries: int = 0, force: bool = False) -> list[Event]:
        scheduler = self._house.pick(None)
        # A second try must be able to come out otherwise.
        how = Sampling(temperature=0.7, seed=tries) if tries else Sampling()
        described = [f"{name}: {text}" for name in names if (text := self._actions[name].description)]
        persona = "\n".join(described)
        asked = self._house.asked(how, question, names, self._history, persona, force=force)
        answer = await scheduler.ask(asked)
        try:
            return await answer.whole()
        finally:
            scheduler.drop(answer)

    def _with_silent(self, text: str) -> str:
        silent, self._silent = self._silent, []
        return "\n".join([*silent, text])

    def _remember(self, question: str, script: list[Event]) -> None:
        turns = [Turn("user", question), Turn("assistant", write(script))]
        self._history = [*self._history, *turns][-MAX_CONTEXT:]
