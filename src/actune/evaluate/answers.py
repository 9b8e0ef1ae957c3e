"""Answers of a system to cases, many at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from actune.engine.protocol import Token
from actune.errors import UserError, either
from actune.evaluate.cases import Case
from actune.evaluate.systems import System
from actune.script.events import Event, merge

if TYPE_CHECKING:
    from actune.actor import Actor
    from actune.engine.local import Request
    from actune.say import How

BATCH = 16
CHUNK = 64
"""Rows between two signs of life."""
MAX_TOKENS = 96
MOST_SHOWN = 20


@dataclass
class Watch:
    """Sees how often the constraint steps in: how often the likeliest token is forbidden."""

    count: int = 0
    """Steps at which it was."""
    mass: float = 0.0
    """Probability of all forbidden tokens, summed over these steps."""

    def __call__(self, logits: Tensor, allowed: Tensor) -> None:
        """Look at a step's logits and mask, both [vocabulary], before the mask is applied."""
        if not allowed[logits.argmax()]:
            self.count += 1
            self.mass += float(torch.softmax(logits, -1).masked_fill(allowed, 0).sum())


@dataclass(frozen=True)
class Answer:
    """An answer and what was prevented in it."""

    events: tuple[Event, ...]
    watch: Watch | None = field(default_factory=Watch)
    """None where the engine does not show what was prevented."""


def requests_for(system: System, cases: Sequence[Case], how: How) -> list[Request]:
    """Render every case.

    Raises:
        UserError: Some do not fit into the model's context; all of them are named.
    """
    requests, bad = [], []
    for case in cases:
        row = case.row
        try:
            request = system.actor.request(
                row.question,
                row.actions,
                row.history,
                row.system or how.persona,
                how.max_tokens or MAX_TOKENS,
                how.temperature,
                how.top_p,
                how.seed,
            )
        except UserError as error:
            bad.append((case, error))
        else:
            # How the run decides to act was fitted to the run.
            requests.append(replace(request, acting=None, blank=None) if system.shared else request)
    if bad:
        lines = [f"  {case.id}: {error.where}: {error.got}" for case, error in bad[:MOST_SHOWN]]
        raise UserError(
            either(f"{len(bad)} rows cannot be rendered for {system.name}", f"{len(bad)} 行无法用于 {system.name}"),
            "\n" + "\n".join(lines),
            bad[0][1].wanted,
            bad[0][1].fix,
            exit_code=1,
        )
    return requests


def answer(system: System, cases: Sequence[Case], how: How, free: bool, advance: Callable[[int], None]) -> list[Answer]:
    """Let a system answer cases.

    Args:
        system: Who answers.
        cases: What is asked.
        how: Budget, persona and sampling.
        free: Lift the constraint.
        advance: Told how many more are answered.

    Returns:
        Answers in the order of the cases.

    Raises:
        UserError: A prompt does not fit, or the model's logits are not numbers.
    """
    watches, watched = [Watch() for _ in cases], system.actor.engine.supports.acting
    requests = [
        replace(request, names=None, acting=None, blank=None) if free else replace(request, watch=watch)
        for request, watch in zip(requests_for(system, cases, how), watches, strict=True)
    ]
    answers: dict[int, Answer] = {}
    with system.on(), numbers(system.name):
        # Rows of a length share a batch: less padding.
        order = sorted(range(len(cases)), key=lambda index: len(requests[index].prompt))
        for first in range(0, len(order), CHUNK):
            chunk = order[first : first + CHUNK]
            written = system.actor.engine.generate([requests[index] for index in chunk], BATCH)
            for index, tokens in zip(chunk, written, strict=True):
                events = _events(system.actor, tokens, cases[index].row.actions, free)
                answers[index] = Answer(tuple(merge(events)), watches[index] if watched else None)
            advance(len(chunk))
    return [answers[index] for index in range(len(cases))]


def _events(actor: Actor, tokens: Iterable[Token], names: Sequence[str], free: bool) -> Iterator[Event]:
    reader = actor.reader(names, keep=free)
    for token in tokens:
        yield from reader.feed(token)
    yield from reader.close()


@contextmanager
def numbers(name: str) -> Iterator[None]:
    """Turn logits that are not numbers into an error that says what to do.

    Raises:
        UserError: They are not.
    """
    try:
        yield
    except ArithmeticError as error:
        raise UserError(
            name,
            str(error),
            either("a model that computes", "能正常计算的模型"),
            either("try --dtype fp32; look at the training's log", "试试 --dtype fp32; 查看训练日志"),
        ) from error
