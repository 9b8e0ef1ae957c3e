"""Events: the pieces of a parsed script, and their one JSON form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from actune.script.catalogue import CLOSE, OPEN

Reason = Literal["stop", "length", "interrupted"]
FaultKind = Literal["unclosed", "empty", "nested", "name", "unlisted", "model"]


@dataclass(frozen=True)
class Say:
    """Words, exactly as written, white space included."""

    text: str


@dataclass(frozen=True)
class Act:
    """One action to perform.

    `char` counts the characters said before it (in all `Say` events of this answer).
    """

    name: str
    char: int = 0


@dataclass(frozen=True)
class Fault:
    """Something that is not a script.

    `raw` is the text as written, so that nothing is lost; `char` counts as in `Act`. Kinds: ``unclosed`` (the text
    ended inside a tag), ``empty``, ``nested`` (``<&`` inside a tag), ``name`` (a name that cannot be one),
    ``unlisted`` (well formed, but not in the catalogue), ``model`` (the engine failed).
    """

    kind: FaultKind
    raw: str
    char: int = 0


@dataclass(frozen=True)
class Done:
    """The end: ``stop`` (the model ended), ``length`` (the budget did), ``interrupted``. Times are milliseconds."""

    reason: Reason = "stop"
    ttft_ms: float | None = None
    tokens: int | None = None


Event = Say | Act | Fault | Done


def merge(events: Iterable[Event]) -> Iterator[Event]:
    """Join neighbouring `Say` events, so that two streams of one script compare equal however they were cut."""
    words = ""
    for event in events:
        if isinstance(event, Say):
            words += event.text
            continue
        if words:
            yield Say(words)
            words = ""
        yield event
    if words:
        yield Say(words)


def write(events: Iterable[Event]) -> str:
    """Write events as a native script; the inverse of the parser."""
    parts: list[str] = []
    for event in events:
        match event:
            case Say(text=text):
                parts.append(text)
            case Act(name=name):
                parts.append(f"{OPEN}{name}{CLOSE}")
            case Fault(raw=raw):
                parts.append(raw)
            case Done():
                pass
    return "".join(parts)


def to_json(event: Event, seq: int) -> dict[str, Any]:
    """Give an event its wire form ``{"seq", "type": "text|action|done|error", ...}``.

    Args:
        event: The event.
        seq: Its place in the stream, from 0.

    Returns:
        A dict that `json.dumps` takes. `from_json` is the inverse.
    """
    match event:
        case Say(text=text):
            return {"seq": seq, "type": "text", "text": text}
        case Act(name=name, char=char):
            return {"seq": seq, "type": "action", "name": name, "args": None, "at": {"char": char}}
        case Fault(kind=kind, raw=raw, char=char):
            return {"seq": seq, "type": "error", "kind": kind, "raw": raw, "at": {"char": char}}
        case Done(reason=reason, ttft_ms=ttft, tokens=tokens):
            return {"seq": seq, "type": "done", "finish_reason": reason, "ttft_ms": ttft, "tokens": tokens}


def from_json(data: dict[str, Any]) -> Event:
    """Read an event back from its wire form.

    Raises:
        ValueError: The type is none of ``text``, ``action``, ``done``, ``error``.
    """
    match data["type"]:
        case "text":
            return Say(data["text"])
        case "action":
            return Act(data["name"], data["at"]["char"])
        case "error":
            return Fault(data["kind"], data["raw"], data["at"]["char"])
        case "done":
            return Done(data["finish_reason"], data.get("ttft_ms"), data.get("tokens"))
        case other:
            raise ValueError(f"unknown event type {other!r}")
