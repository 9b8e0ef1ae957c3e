"""The OpenAI protocol over HTTP, as a client of completions that come in pieces."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from actune.engine.protocol import EngineError
from actune.errors import UserError, either

# Seconds before the second, third and fourth try. Servers that start or are full need a moment.
PAUSES = (0.5, 1.0, 2.0)
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_GONE = (OSError, http.client.HTTPException)


class Refused(Exception):
    """The server answered that it will not.

    Args:
        status: HTTP's.
        text: What the server says.
    """

    def __init__(self, status: int, text: str) -> None:
        self.status, self.text = status, text
        super().__init__(f"HTTP {status}: {text}")


class Piece(NamedTuple):
    """A piece of an answer, and at the end why it ended: ``stop``, ``length`` or something else."""

    text: str
    finish: str | None


class Client:
    """Speaks to a server; where several are named, to the next one as soon as one fails.

    Args:
        url: Of the server, with or without ``/v1`` at its end; several, with the same model, are parted by commas.
        key: Sent as bearer token; empty for none.
        patience: Seconds that the server may be silent.
    """

    def __init__(self, url: str, key: str = "", patience: float = 120.0) -> None:
        self._urls = [_address(one.strip()) for one in url.split(",")]
        self.url = self._urls[0]
        self._patience = patience
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    def _turn(self, failed: str) -> None:
        """Speak to the next server from now on, unless another thread has turned already."""
        if self.url == failed:
            self.url = self._urls[(self._urls.index(failed) + 1) % len(self._urls)]

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return what the server answers, from JSON.

        Raises:
            Refused: It will not.
            UserError: It cannot be reached, or does not speak JSON.
        """
        for pause in (*PAUSES, None):
            at = self.url
            try:
                with self._open(at + path, body) as response:
                    return json.loads(response.read())
            except ValueError as error:
                raise self._away(error) from error
            except Refused as error:
                if error.status not in _AGAIN or pause is None:
                    raise
                self._turn(at)
            except _GONE as error:
                self._turn(at)
                if pause is None:
                    raise self._away(error) from error
            time.sleep(pause or 0)
        raise AssertionError("the last try returns or raises")

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[Piece]:
        """Yield the pieces of an answer; until the first with text a server that fails is asked again.

        Raises:
            EngineError: It failed after that.
            Refused: It will not answer.
            UserError: It cannot be reached.
        """
        begun = False
        for pause in (*PAUSES, None):
            at = self.url
            try:
                with self._open(at + path, {**body, "stream": True}) as response:
                    for piece in _pieces(response):
                        begun = begun or bool(piece.text)
                        yield piece
                return
            except Refused as error:
                if begun:
                    raise EngineError(str(error)) from error
                if error.status not in _AGAIN or pause is None:
                    raise
                self._turn(at)
            except (*_GONE, ValueError) as error:
                self._turn(at)
                if begun:
                    raise EngineError(f"{at}: {_reason(error)}") from error
                if pause is None:
                    raise self._away(error) from error
            time.sleep(pause or 0)

    def _open(self, url: str, body: Mapping[str, Any] | None) -> http.client.HTTPResponse:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, self._headers)
        # The environment's proxy is not meant for this machine itself.
        local = urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
        opener = urllib.request.build_opener(*((urllib.request.ProxyHandler({}),) if local else ()))
        try:
            response: http.client.HTTPResponse = opener.open(request, timeout=self._patience)
        except urllib.error.HTTPError as error:
            with error:
                raise Refused(error.code, _message(error.read().decode("utf-8", "replace"))) from error
        return response

    def _away(self, error: Exception) -> UserError:
        return UserError(
            self.url,
            _reason(error),
            either("a server with the OpenAI protocol", "支持 OpenAI 协议的服务器"),
            either("start it, or correct --url", "启动它, 或修改 --url"),
            exit_code=1,
        )


def _address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError("--url", url or "-", "http://HOST:PORT", either("name the server's address", "填写服务器地址"))
    return url.rstrip("/").removesuffix("/v1")


def _pieces(response: http.client.HTTPResponse) -> Iterator[Piece]:
    """Read server-sent events.

    Raises:
        Refused: One of them is an error.
        ConnectionError: There was no end.
    """
    for line in response:
        field, _, value = line.decode("utf-8", "replace").strip().partition(":")
        if field == "error":  # llama-server's own spelling
            raise Refused(500, _message(value))
        if field != "data" or not value.strip():
            continue
        if value.strip() == "[DONE]":
            return
        data = json.loads(value)
        if "error" in data:
            raise Refused(int(data["error"].get("code") or 500), _message(value))
        for choice in data.get("choices", ())[:1]:
            text = choice.get("text") or choice.get("delta", {}).get("content") or ""
            yield Piece(text, choice.get("finish_reason"))
            if choice.get("finish_reason"):
                return
    # http.client takes a chunked body that breaks off for one that ends.
    raise ConnectionError(either("the answer broke off", "回答中断"))


def _reason(error: Exception) -> str:
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    return str(inner) or type(inner).__name__


def _message(text: str) -> str:
    """Find the words in an error's body; servers wrap them differently."""
    try:
        data = json.loads(text)
    except ValueError:
        data = text
    while isinstance(data, dict):
        data = data.get("error") or data.get("message") or data.get("detail") or json.dumps(data)
    return str(data).strip()[:500]
