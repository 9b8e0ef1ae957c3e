"""What clients may send, with its limits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from actune.script.catalogue import catalogue
from actune.script.dialects import Dialect

MAX_NAMES, MAX_LIST_BYTES = 2000, 256_000
MAX_TURNS, MAX_OUTPUT = 1000, 4096
MAX_BODY_BYTES = 4_000_000
MAX_TEXT = 200_000
TEXT_PARTS = ("text", "input_text", "refusal")


def _names(names: list[str]) -> list[str]:
    if sum(len(name.encode("utf-8", "replace")) for name in names) > MAX_LIST_BYTES:
        raise ValueError(f"the list of actions is longer than {MAX_LIST_BYTES} bytes")
    return list(catalogue(names))


# `name_problem` as a pattern, for whoever reads the schema.
NAME = r"^(?!\s)(?!.*(<&|&>))[^\x00-\x1f\x7f-\x9f\u2028\u2029]+(?<!\s)$"
_NAMES = {"uniqueItems": True, "items": {"type": "string", "pattern": NAME}}
Names = Annotated[list[str], Field(max_length=MAX_NAMES, json_schema_extra=_NAMES), AfterValidator(_names)]
# In JSON 256.0 is a whole number, and some languages write it so.
WHOLE = BeforeValidator(lambda got: int(got) if isinstance(got, float) and got.is_integer() else got)
Text = Annotated[str, Field(max_length=MAX_TEXT)]


class _Body(BaseModel):
    """Types are taken as they are; what is not known is ignored, as OpenAI does."""

    model_config = ConfigDict(strict=True, extra="ignore")


class Function(_Body):
    """The function of a tool, or of a call."""

    name: Annotated[str, Field(json_schema_extra={"pattern": NAME})]
    parameters: dict[str, Any] | None = None


class Tool(_Body):
    """A tool; its name is an action."""

    type: Literal["function"] = "function"
    function: Function


class ToolCall(_Body):
    """An action that was done."""

    id: str | None = None
    function: Function


class Part(_Body):
    """A part of a message; only text is understood."""

    type: Annotated[str, Field(json_schema_extra={"enum": list(TEXT_PARTS)})]
    text: str | None = None
    refusal: str | None = None


class Message(_Body):
    """A chat message."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | list[Part] | None = None
    tool_calls: list[ToolCall] | None = None


class NamedFunction(_Body):
    """The name of a function."""

    name: str


class NamedTool(_Body):
    """A tool that is asked for by name."""

    type: Literal["function"] = "function"
    function: NamedFunction


class StreamOptions(_Body):
    """Options of a stream."""

    include_usage: bool | None = None


class Sampling(_Body):
    """How an answer is written; what is left out is the server's choice."""

    model: str | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**53), le=2**53), WHOLE] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_OUTPUT), WHOLE] | None = None


class Completion(Sampling):
    """``POST /v1/chat/completions``; ours are `actions` and `dialect`."""

    model_config = ConfigDict(
        json_schema_extra={
            "not": {
                "required": ["tools", "actions"],
                "properties": {"tools": {"type": "array", "minItems": 1}, "actions": {"type": "array"}},
            }
        }
    )
    messages: Annotated[
        list[Message],
        Field(
            min_length=1,
            max_length=MAX_TURNS,
            json_schema_extra={"contains": {"required": ["role"], "properties": {"role": {"const": "user"}}}},
        ),
    ]
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_OUTPUT), WHOLE] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    n: Literal[1] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_NAMES)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    user: Annotated[str, Field(max_length=200)] | None = None
    actions: Names | None = None
    dialect: Dialect | None = None


class HistoryTurn(_Body):
    """An earlier turn; an assistant's text is a native script."""

    role: Literal["user", "assistant"]
    text: Text


class Act(Sampling):
    """``POST /act``, and ``ask`` on ``/ws``."""

    question: Text
    actions: Names | None = None
    persona: Text = ""
    history: Annotated[list[HistoryTurn], Field(max_length=MAX_TURNS)] | None = None
    """Earlier turns, in place of what the session remembers."""
    session: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Remember the dialogue under this name."""
    heard: Text | None = None
    """What was heard of the session's last answer; the rest is forgotten."""
    chunk: Literal["delta", "sentence"] = "delta"
    resume: bool = False
    """Go on when the connection is lost, so that Last-Event-ID can take it up again."""
