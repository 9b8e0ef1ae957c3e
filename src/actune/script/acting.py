"""The numbers by which an actor decides to act and chooses the action; neutral ones change nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from actune.errors import UserError, either


@dataclass(frozen=True)
class Acting:
    """How an actor decides. `tune.calibrate` finds these numbers on validation rows.

    Small tuned models act too much and prefer short and frequent names; see `docs/acting.md`.

    Args:
        bias: Added to the logits that open the first tag of an answer, in nats.
        again: The same for each next tag.
        contrast: Share of those logits' log-odds without the question that is taken off.
        fit: Some action not yet done must be more probable with the question than without by this, in nats; if none
            is, nothing fits and the acting ends. None: not asked.
        gamma: A name counts ``log p(name | question) - gamma * log p(name | no question)``.
        channel: And ``channel * log p(question | name)`` more (see `actune.channel`).
        repeats: Whether an action may be done twice in an answer; if not, the wish to ends the acting.
        most: Actions in an answer at most; None for no limit.
    """

    bias: float = 0.0
    again: float = 0.0
    contrast: float = 0.0
    fit: float | None = None
    gamma: float = 0.0
    channel: float = 0.0
    repeats: bool = True
    most: int | None = None

    @property
    def compares(self) -> bool:
        """Whether it needs the prompt without the question."""
        return bool(self.contrast or self.gamma or self.channel or self.fit is not None)

    def ends(self, choice: Choice, name: str, done: Sequence[str]) -> bool:
        """Tell whether a wish to act is refused, and the acting over.

        Args:
            choice: What was wished among.
            name: The one that would be written.
            done: The answer's actions so far.
        """
        return (
            (self.most is not None and len(done) >= self.most)
            or (not self.repeats and name in done)
            or (self.fit is not None and choice.fit(done) < self.fit)
        )

    @property
    def neutral(self) -> bool:
        """Whether it leaves the model alone."""
        return self == Acting()

    def to_dict(self) -> dict[str, Any]:
        """Give what a run stores; nothing if it is neutral."""
        return {} if self.neutral else asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Acting:
        """Read what a run has stored.

        Raises:
            UserError: A newer actune stored what this one does not know, or a value is impossible.
        """
        wanted = {entry.name for entry in fields(cls)}
        numbers = [stored.get(name) or 0.0 for name in ("bias", "again", "contrast", "fit", "gamma", "channel")]
        good = all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)
        if not good or not set(stored) <= wanted:
            raise UserError(
                "acting", str(dict(stored)), ", ".join(sorted(wanted)), either("update actune", "升级 actune")
            )
        return cls(**stored)


@dataclass
class Trace:
    """What a greedy answer hung on: tells for which other numbers it would be the same answer.

    Margins are (logit of the best opening token) - (that of the best other one), before anything is added.
    """

    opened: dict[bool, float] = field(default_factory=lambda: {False: math.inf, True: math.inf})
    """Least margin with which a tag was opened; False: a first one, True: a next one."""
    passed: dict[bool, float] = field(default_factory=lambda: {False: -math.inf, True: -math.inf})
    """Greatest margin with which none was opened."""
    choices: list[Choice] = field(default_factory=list)
    odds: float = 0.0
    """Log-odds of a tag without the question, which a contrast takes off."""
    brief: bool = False
    """Whether to end the answer once no more actions can follow."""

    def agrees(self, acting: Acting) -> bool:
        """Tell whether the answer would be the same under other numbers."""
        for again, bias in ((False, acting.bias), (True, acting.again)):
            shift = bias - acting.contrast * self.odds
            if self.opened[again] + shift <= 0 or self.passed[again] + shift > 0:
                return False
        done: list[str] = []
        for choice in self.choices:
            name = choice.best(acting.gamma, acting.channel)
            if acting.ends(choice, name, done):
                return choice.taken is None
            if name != choice.taken:
                return False
            done.append(name)
        return True


@dataclass(frozen=True)
class Choice:
    """One choice among the listed names.

    Args:
        names: Those that could be written.
        scores: log p(name | question), nats.
        blank: log p(name | no question), nats.
        told: log p(question | name), nats; zeros where it was not asked for.
        taken: The name that was written; None if the wish ended the acting.
    """

    names: tuple[str, ...]
    scores: tuple[float, ...]
    blank: tuple[float, ...]
    told: tuple[float, ...]
    taken: str | None

    def fit(self, done: Sequence[str]) -> float:
        """Return by how much the question raises the action that it raises most, of those not done; nats."""
        raised = zip(self.names, self.scores, self.blank, strict=True)
        return max((score - blank for name, score, blank in raised if name not in done), default=-math.inf)

    def best(self, gamma: float, channel: float) -> str:
        """Return the name with the highest calibrated score; the first of equals."""
        values = self.totals(gamma, channel)
        return self.names[values.index(max(values))]

    def totals(self, gamma: float, channel: float) -> list[float]:
        """Return what each name counts."""
        parts = zip(self.scores, self.blank, self.told, strict=True)
        return [score - gamma * blank + channel * told for score, blank, told in parts]
