"""Who may come in: keys and origins; and what pages may do."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actune.serve.errors import error_body

# The page is ours alone: nothing from elsewhere, nothing inline, in no other page's frame.
PAGE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """Stands before the app (ASGI middleware).

    Args:
        app: The app.
        key: What clients must send as ``Authorization: Bearer KEY``; a browser's WebSocket, which cannot, offers the
            subprotocols ``actune`` and ``bearer.KEY``. Empty: none.
        origins: Web origins that may call from a browser; the server's own may always.
        local: Whether it listens on this machine only: then a request that names another host is a page's trick
            (DNS rebinding).
        free: Paths that need no key.
    """

    def __init__(
        self,
        app: ASGIApp,
        key: str = "",
        origins: Collection[str] = (),
        local: bool = True,
        free: Collection[str] = (),
    ) -> None:
        self._app, self._key, self._origins, self._local = app, key, frozenset(origins), local
        self._free = frozenset(free)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer why not."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal and scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": refusal[1]})
        elif refusal:
            status, message = refusal
            extra = {"WWW-Authenticate": "Bearer"} if status == 401 else None
            await JSONResponse(error_body(message, status), status, extra)(scope, receive, self._marked(scope, send))
        elif scope["type"] == "websocket":
            await self._app(scope, receive, send)
        else:
            await self._app(scope, receive, self._marked(scope, send))

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        host, origin = headers.get("host", ""), headers.get("origin", "")
        if self._local and not self._key and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            return 403, "this server answers to localhost only; give it --host and --api-key to serve others"
        own = urlsplit(origin).netloc == host
        # A page elsewhere may not talk to it behind its user's back; CORS does not stop WebSockets.
        if origin and not own and origin not in self._origins:
            return 403, "this origin may not call; name it with --cors"
        # A preflight request carries no key; CORS itself answers it.
        free = scope["path"] in self._free or scope.get("method") == "OPTIONS"
        if self._key and not free and not self._has_key(headers):
            return 401, "send the key as Authorization: Bearer KEY"
        return None

    def _has_key(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        offers = [part.strip() for part in headers.get("sec-websocket-protocol", "").split(",")]
        keys = [given.strip()] if scheme.lower() == "bearer" else []
        keys += [offer.removeprefix("bearer.") for offer in offers if offer.startswith("bearer.")]
        return any(hmac.compare_digest(key.encode(), self._key.encode()) for key in keys)

    def _marked(self, scope: Scope, send: Send) -> Send:
        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Cache-Control", "no-store")
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
                headers["Content-Security-Policy"] = PAGE
            await send(message)

        return marked
