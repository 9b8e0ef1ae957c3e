"""What the routes share: the models, what holds for all questions, the numbers, and the bodies that perform."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from actune.data.rows import Turn
from actune.script.dialects import Dialect
from actune.serve.answer import Answer, Asked
from actune.serve.errors import ApiError
from actune.serve.metrics import Metrics
from actune.serve.scheduler import Scheduler
from actune.serve.sessions import Sessions
from actune.serve.wire import Sampling

# Performs an answer for a user or session, in the background.
Body = Callable[[Answer, str], None]


@dataclass(frozen=True)
class Defaults:
    """What holds where a client says nothing."""

    names: tuple[str, ...] = ()
    persona: str = ""
    dialect: Dialect = "native"
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass
class House:
    """One server.

    Args:
        models: A scheduler for each model's name; the first is asked where a client names none.
        defaults: What holds where a client says nothing.
        metrics: Its numbers.
    """

    models: dict[str, Scheduler]
    defaults: Defaults
    metrics: Metrics
    sessions: Sessions = field(default_factory=Sessions)
    bodies: list[Body] = field(default_factory=list)
    beside: list[Callable[[], AbstractAsyncContextManager[Any]]] = field(default_factory=list)
    """What runs as long as the server does."""

    def pick(self, model: str | None) -> Scheduler:
        """Find a model.

        Raises:
            ApiError: There is none of this name.
        """
        if model is None:
            return next(iter(self.models.values()))
        if model not in self.models:
            names = ", ".join(self.models)
            message = f"the model {model!r} does not exist; there is: {names}"
            raise ApiError(message, 404, "model_not_found", "model")
        return self.models[model]

    def asked(
        self,
        how: Sampling,
        question: str,
        names: Sequence[str] | None,
        history: Sequence[Turn] = (),
        persona: str = "",
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
        force: bool = False,
    ) -> Asked:
        """Complete a question with what holds where the client says nothing."""
        defaults = self.defaults
        temperature = defaults.temperature if how.temperature is None else how.temperature
        # One who samples wants another answer each time, unless he says which.
        seed = random.getrandbits(62) if how.seed is None and temperature > 0 and not defaults.seed else how.seed
        return Asked(
            question,
            defaults.names if names is None else tuple(names),
            tuple(history),
            "\n\n".join(filter(None, [persona, defaults.persona])),
            max_tokens or how.max_tokens or defaults.max_tokens,
            temperature,
            defaults.top_p if how.top_p is None else how.top_p,
            defaults.seed if seed is None else seed,
            tuple(stop),
            force,
        )

    def perform(self, answer: Answer, who: str | None) -> None:
        """Let every body perform an answer."""
        for body in self.bodies:
            body(answer, who or "User")
