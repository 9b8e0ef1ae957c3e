"""A client's messages become persona, history and question."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from actune.data.rows import Turn
from actune.script.catalogue import CLOSE, OPEN, name_problem
from actune.script.dialects import Spelling
from actune.serve.wire import TEXT_PARTS

_CALL = re.compile(r"call_(\d+)_(\d+)")


@dataclass(frozen=True)
class Dialogue:
    """What the messages say."""

    persona: str
    """The client's system texts, a blank line between them."""
    history: tuple[Turn, ...]
    question: str | None
    """None: the last word is the assistant's, so there is nothing to answer."""
    calls: int
    """Tool calls so far; the next one's number."""


def call_id(seq: int, char: int) -> str:
    """Name a tool call so that its place among words and calls can be told from its id.

    Args:
        seq: Its number in the dialogue, from 0.
        char: Characters said before it in its answer.
    """
    return f"call_{seq}_{char}"


def read_messages(messages: Sequence[dict[str, Any]], spelling: Spelling) -> Dialogue:
    """Read chat messages.

    Messages of one role that follow each other become one. Results of tools are not rendered: an action is done when
    it is said. An assistant's greeting before the first question is left out, as chat templates begin with the user.

    Args:
        messages: As the OpenAI protocol has them.
        spelling: How the assistant's actions are spelled in them.

    Raises:
        ValueError: A part of a message is not text, or nobody asks anything.
    """
    persona: list[str] = []
    turns: list[Turn] = []
    calls = 0
    for message in messages:
        role, words = message["role"], _text(message.get("content"))
        if role in ("system", "developer"):
            persona.append(words)
        elif role == "user":
            _append(turns, Turn("user", words), "\n")
        elif role == "assistant":
            made = message.get("tool_calls") or []
            calls += len(made)
            _append(turns, Turn("assistant", _with_calls(words, made) if made else spelling.read(words)), "")
    while turns and turns[0].role == "assistant":
        turns.pop(0)
    if not turns:
        raise ValueError("there is no message of a user")
    asks = turns[-1].role == "user"
    question = turns[-1].text if asks else None
    return Dialogue("\n\n".join(filter(None, persona)), tuple(turns[:-1] if asks else turns), question, calls)


def _append(turns: list[Turn], turn: Turn, between: str) -> None:
    if turns and turns[-1].role == turn.role:
        turn = Turn(turn.role, turns.pop().text + between + turn.text)
    turns.append(turn)


def _text(content: str | Iterable[dict[str, Any]] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    parts = []
    for part in content:
        if part.get("type") not in TEXT_PARTS:
            raise ValueError(f"a message's content has a part of type {part.get('type')!r}; only text is understood")
        parts.append(str(part.get("text") or part.get("refusal") or ""))
    return "".join(parts)


def _with_calls(words: str, calls: Sequence[dict[str, Any]]) -> str:
    """Put tool calls back between the words, where their ids say that they stood."""
    script, done = "", 0
    for char, _, _, name in sorted(_places(calls, len(words))):
        script += words[done:char] + (name if name_problem(name) else f"{OPEN}{name}{CLOSE}")
        done = char
    return script + words[done:]


def _places(calls: Sequence[dict[str, Any]], end: int) -> Iterable[tuple[int, bool, int, str]]:
    """Yield (characters before, whether foreign, number, name) of calls; a foreign id tells nothing: the end it is."""
    for number, call in enumerate(calls):
        ours = _CALL.fullmatch(str(call.get("id")))
        char, seq = (int(ours[2]), int(ours[1])) if ours else (end, number)
        yield min(char, end), ours is None, seq, str(call["function"]["name"])
