"""An answer's events as the OpenAI protocol's JSON: whole, or in pieces that keep their order."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from typing import Any

from actune.script.dialects import Spelling
from actune.script.events import Act, Done, Event, Fault
from actune.serve.answer import Answer
from actune.serve.errors import ApiError
from actune.serve.messages import call_id


class Completion:
    """Writes one completion.

    Args:
        model: The model's name.
        spelling: How actions are spelled in the text.
        calls: Number of the next tool call; None if actions are not tool calls.
    """

    def __init__(self, model: str, spelling: Spelling, calls: int | None) -> None:
        self._model, self._spelling, self._calls = model, spelling, calls
        self._id, self._created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())
        self._tail = ""
        self._acts = 0

    def delta(self, event: Event) -> dict[str, Any] | None:
        """Return what an event adds to the message, None if nothing."""
        if isinstance(event, Act):
            self._acts += 1
            if self._calls is not None:
                return {"tool_calls": [self._call(event)]}
            if self._spelling.dialect == "none":
                return {"actions": [{"name": event.name, "at": {"char": event.char}}]}
        if self._calls is not None and isinstance(event, Fault):
            return None
        text = self._spelling.write(event, self._tail)
        # Only the end of the text decides how the next tag is set.
        self._tail = (self._tail + text)[-8:]
        return {"content": text} if text else None

    def chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        """Return a chunk of a stream."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._head("chat.completion.chunk") | {"choices": [choice]}

    def usage_chunk(self, answer: Answer | None) -> dict[str, Any]:
        """Return the chunk that tells the usage."""
        return self._head("chat.completion.chunk") | {"choices": [], "usage": usage(answer)}

    def whole(self, events: Iterable[Event], answer: Answer | None) -> dict[str, Any]:
        """Return the completion in one piece.

        Raises:
            ApiError: The model failed.
        """
        content, calls, actions, finish = "", [], [], "stop"
        for event in events:
            if failed := failure(event):
                raise failed
            if isinstance(event, Done):
                finish = self.finish(event)
                continue
            delta = self.delta(event) or {}
            content += delta.get("content", "")
            calls += [{key: call[key] for key in ("id", "type", "function")} for call in delta.get("tool_calls", [])]
            actions += delta.get("actions", [])
        message: dict[str, Any] = {"role": "assistant", "content": content or (None if calls else ""), "refusal": None}
        if calls:
            message["tool_calls"] = calls
        if self._spelling.dialect == "none" and self._calls is None:
            message["actions"] = actions
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        return self._head("chat.completion") | {"choices": [choice], "usage": usage(answer)}

    def finish(self, done: Done) -> str:
        """Say in OpenAI's words why an answer ended."""
        if done.reason != "stop":
            return "length"
        return "tool_calls" if self._acts and self._calls is not None else "stop"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}

    def _call(self, act: Act) -> dict[str, Any]:
        index = self._acts - 1
        return {
            "index": index,
            "id": call_id((self._calls or 0) + index, act.char),
            "type": "function",
            "function": {"name": act.name, "arguments": "{}"},
        }


def usage(answer: Answer | None) -> dict[str, int]:
    """Count an answer's tokens."""
    prompt = answer.prompt_tokens if answer else 0
    made = (answer.done.tokens or 0) if answer and answer.done else 0
    return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}


def failure(event: Event) -> ApiError | None:
    """Return the error that an event means to a client, if it does."""
    if not isinstance(event, Fault) or event.kind != "model":
        return None
    if event.raw == "timeout":
        return ApiError("the answer took too long", 504, "timeout")
    return ApiError("the model failed", 500, "model_failed")
