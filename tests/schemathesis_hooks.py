"""What a request to the server must keep to and JSON schema cannot say; schemathesis reads this."""

from __future__ import annotations

import contextlib
from typing import Any

import schemathesis


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Let a forced tool be one of the request's tools. (That another is refused is tested in test_serve_openai.)"""
    # A body without tools or without a forced one, or one that is wrong on purpose, stays as it is.
    with contextlib.suppress(TypeError, KeyError, IndexError):
        body["tool_choice"]["function"]["name"] = body["tools"][0]["function"]["name"]
    return body
