"""The stage's page: its files, and what it is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.routing import Route

from actune.serve.document import answers
from actune.serve.errors import ApiError
from actune.serve.staging import STAGE, Staging


def mount_stage(app: FastAPI, staging: Staging, names: Sequence[str] = (), replay: bool = False) -> list[str]:
    """Put the page at ``/``; to be called when all other routes are there.

    Args:
        app: The app.
        staging: How actions are shown.
        names: The actions that the page offers at first.
        replay: Whether answers are recorded ones.

    Returns:
        The paths that need no key: a browser sends none for a page and its pictures.
    """
    router = APIRouter(include_in_schema=False)  # Between the page and us.

    @router.get("/stage.json", responses=answers("application/json"))
    async def setting() -> dict[str, Any]:
        """Tell the page how actions are shown and what to try."""
        return {"mapping": staging.mapping, "scenes": staging.scenes, "names": list(names), "replay": replay}

    @router.get("/looks/{name}", responses=answers("image/*", "video/*"), response_class=FileResponse)
    async def look(name: str) -> FileResponse:
        """Send a picture or film that the user's stage.yaml names."""
        for file in staging.files:
            if staging.address(file) == f"looks/{name}":
                return FileResponse(file)
        raise ApiError("there is no such picture", 404)

    app.include_router(router)
    page = StaticFiles(directory=STAGE, html=True)
    files = ["/", *(f"/{file.relative_to(STAGE).as_posix()}" for file in STAGE.rglob("*") if file.is_file())]
    # Not one mount at "/": it would answer a wrong method of every other route.
    app.router.routes += [Route(path, page, include_in_schema=False) for path in files]
    return [*files, *(f"/{staging.address(file)}" for file in staging.files)]
