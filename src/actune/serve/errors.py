"""Errors as the OpenAI protocol has them: every route answers a mistake in this one form, and tells no secrets."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from actune.errors import PromptTooLong, UserError
from actune.serve.scheduler import Busy, Stopping

log = logging.getLogger(__name__)


class ApiError(Exception):
    """A client's mistake.

    Args:
        message: What is wrong and what would be right.
        status: HTTP status.
        code: OpenAI's word for it, or ours.
        param: The field at fault.
    """

    def __init__(self, message: str, status: int = 400, code: str | None = None, param: str | None = None) -> None:
        self.message, self.status, self.code, self.param = message, status, code, param
        super().__init__(message)


def error_body(message: str, status: int = 400, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """Return the JSON of an error."""
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def as_api_error(error: Exception) -> ApiError:
    """Say what any error of a question means to a client."""
    match error:
        case ApiError():
            return error
        case PromptTooLong():
            return ApiError(f"{error.got}; {error.wanted}", code="context_length_exceeded", param="messages")
        case UserError():
            return ApiError(f"{error.got}; {error.wanted}")
        case Busy():
            return ApiError(str(error), 429, "queue_full")
        case Stopping():
            return ApiError("the server is going down", 503, "shutting_down")
        case ValueError():
            return ApiError(str(error))
        case _:
            log.error("a request failed", exc_info=error)
            return ApiError("internal error", 500, "internal_error")


def respond(error: Exception) -> JSONResponse:
    """Answer an error."""
    known = as_api_error(error)
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, Busy) else None
    body = error_body(known.message, known.status, known.code, known.param)
    return JSONResponse(body, known.status, headers)


async def _respond(_: Request, error: Exception) -> JSONResponse:
    return respond(error)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    return JSONResponse(error_body(f"{where}: {first['msg']}" if where else first["msg"], param=where or None), 400)


async def _http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse(error_body(str(error.detail), error.status_code), error.status_code, error.headers)


def handle_errors(app: FastAPI) -> None:
    """Make the app answer all errors in this form."""
    for kind in (ApiError, UserError, Busy, Stopping, ValueError, Exception):
        app.add_exception_handler(kind, _respond)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
