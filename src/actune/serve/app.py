"""The app: all routes, behind the guard."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response

from actune import __version__
from actune.serve.act import act_routes
from actune.serve.chat import chat_routes
from actune.serve.document import Health, answers
from actune.serve.errors import handle_errors
from actune.serve.guard import Guard
from actune.serve.house import House
from actune.serve.neuro import neuro_routes
from actune.serve.page import mount_stage
from actune.serve.socket import socket_routes
from actune.serve.staging import Staging, read_staging
from actune.serve.wire import MAX_BODY_BYTES


def build(
    house: House, key: str = "", origins: Sequence[str] = (), local: bool = True, staging: Staging | None = None
) -> FastAPI:
    """Make the app.

    Args:
        house: What it serves.
        key: See `Guard`.
        origins: See `Guard`.
        local: See `Guard`.
        staging: How the stage shows actions; as shipped if left out.
    """

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        for scheduler in house.models.values():
            scheduler.start()
        async with contextlib.AsyncExitStack() as stack:
            for beside in house.beside:
                await stack.enter_async_context(beside())
            yield
        for scheduler in house.models.values():
            await scheduler.stop()

    # No pages of documentation: theirs come from a CDN. /openapi.json says it all.
    app = FastAPI(
        title="actune",
        version=__version__,
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        max_body_size=MAX_BODY_BYTES,
    )
    handle_errors(app)
    for routes in (chat_routes, act_routes, socket_routes, neuro_routes, _own_routes):
        app.include_router(routes(house))
    # A load balancer asks without a key.
    free = ["/healthz", *mount_stage(app, staging or read_staging(), house.defaults.names)]
    if origins:
        # Keys travel in a header, never in a cookie: no credentials.
        app.add_middleware(
            CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST"], allow_headers=["*"]
        )
    app.add_middleware(Guard, key=key, origins=origins, local=local, free=free)
    return app


def _own_routes(house: House) -> APIRouter:
    router = APIRouter(tags=["server"])
    house.metrics.watch("actune_waiting", "Questions that wait.", lambda: _total(house, "waiting"))
    house.metrics.watch("actune_running", "Answers being written.", lambda: _total(house, "running"))
    house.metrics.watch("actune_sessions", "Dialogues remembered.", lambda: float(len(house.sessions)))

    @router.get("/healthz", responses=answers(model=Health))
    async def healthz() -> Response:
        """Tell whether it takes questions."""
        alive = all(scheduler.alive for scheduler in house.models.values())
        state: dict[str, Any] = {"status": "ok" if alive else "stopping", "models": list(house.models)}
        return JSONResponse(state | {"waiting": _total(house, "waiting")}, 200 if alive else 503)

    @router.get("/metrics", responses=answers("text/plain"), response_class=Response)
    async def metrics() -> Response:
        """Tell the numbers, for Prometheus."""
        return Response(house.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def _total(house: House, what: str) -> float:
    return sum(scheduler.waiting if what == "waiting" else scheduler.running for scheduler in house.models.values())
