"""The stage's app where there is no model: recorded answers come at the times at which they came then."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import FastAPI

from actune import __version__
from actune.serve.errors import ApiError, handle_errors
from actune.serve.guard import Guard
from actune.serve.page import mount_stage
from actune.serve.recording import Take
from actune.serve.staging import Staging
from actune.serve.stream import Stream, frame
from actune.serve.wire import MAX_BODY_BYTES, Act


def build_replay(takes: Sequence[Take], staging: Staging) -> FastAPI:
    """Make an app that answers as that of `app.build` does, from a recording.

    Args:
        takes: The recorded answers; a question that was asked several times is answered in turn.
        staging: How actions are shown.
    """
    app = FastAPI(
        title="actune replay", version=__version__, docs_url=None, redoc_url=None, max_body_size=MAX_BODY_BYTES
    )
    handle_errors(app)
    models = list(dict.fromkeys(take.model for take in takes))
    asked: Counter[tuple[str, str]] = Counter()

    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": model, "object": "model"} for model in models]}

    @app.post("/act")
    async def act(body: Act) -> Stream:
        model = body.model or models[0]
        fitting = [take for take in takes if (take.model, take.question) == (model, body.question)]
        if not fitting:
            raise ApiError("this question is not in the recording", 404, "not_recorded", "question")
        place = asked[model, body.question] % len(fitting)
        asked[model, body.question] += 1

        async def frames() -> AsyncIterator[str]:
            begun = time.perf_counter()
            for ms, event in fitting[place].events:
                await asyncio.sleep(max(0.0, ms / 1000 - (time.perf_counter() - begun)))
                yield frame(event, str(event["seq"]))

        return Stream(frames(), lambda: None)

    staging.scenes = _scenes(takes)
    free = mount_stage(app, staging, replay=True)
    app.add_middleware(Guard, free=free)
    return app


def _scenes(takes: Sequence[Take]) -> list[dict[str, Any]]:
    """Return the recorded questions, each once, for the page to offer."""
    scenes = {take.question: take.actions for take in takes}
    chinese = {question: any("\u4e00" <= char <= "\u9fff" for char in question) for question in scenes}
    return [
        {"ask": question, "actions": actions, "lang": "zh" if chinese[question] else "en"}
        for question, actions in scenes.items()
    ]
