"""What ``/openapi.json`` says of answers: their types, and that every mistake has one form."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class Error(BaseModel):
    """A mistake."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    """The answer to a mistake, as OpenAI has it."""

    error: Error


class Health(BaseModel):
    """Whether it takes questions."""

    status: str
    models: list[str]
    waiting: float


class Card(BaseModel):
    """A model."""

    id: str
    object: str
    created: int
    owned_by: str


class Cards(BaseModel):
    """The models."""

    object: str
    data: list[Card]


_ERROR = {"description": "A mistake.", "model": ErrorAnswer}


def answers(*media: str, model: type[BaseModel] | None = None) -> dict[int | str, dict[str, Any]]:
    """Describe a route's answers: of these media types, or errors."""
    good: dict[str, Any] = {"description": "The answer.", "content": {kind: {} for kind in media}}
    if model is not None:
        good = {"description": "The answer.", "model": model}
    return {200: good, "4XX": _ERROR, "5XX": _ERROR}
