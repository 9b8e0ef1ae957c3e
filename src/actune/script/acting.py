"""The numbers by which an actor decides to act and chooses the action; neutral ones change nothing."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from actune.errors import UserError, either

log = logging.getLogger(__name__)

# Numbers that runs of an older actune hold.
OLD = ("contrast", "fit")


@dataclass(frozen=True)
class Acting:
    """How an actor decides. `tune.calibrate` finds these numbers on validation rows.

    Small tuned models act too much and prefer short and frequent names; see `docs/acting.md`.

    Args:
        bias: Added to the logits that open the first tag of an answer, in nats.
        again: The same for each next tag.
        gate: What must speak for acting before the answer begins, in nats (see `Trace.evidence`); with less, it has
            no action. None: not asked.
        heard: What `Trace.heard` weighs in that.
        gamma: A name counts ``log p(name | question) - gamma * log p(name | no question)``.
        channel: And ``channel * log p(question | name)`` more (see `actune.channel`).
        repeats: Whether an action may be done twice in an answer; if not, the wish to ends the acting.
        most: Actions in an answer at most; None for no limit.
    """

    bias: float = 0.0
    again: float = 0.0
    gate: float | None = None
    heard: float = 0.0
    gamma: float = 0.0
    channel: float = 0.0
    repeats: bool = True
    most: int | None = None

    @property
    def hears(self) -> bool:
        """Whether it needs the question after each name."""
        return bool(self.channel or (self.heard and self.gate is not None))

    @property
    def compares(self) -> bool:
        """Whether it needs the prompt without the question."""
        return bool(self.gamma or self.hears)

    def shuts(self, trace: Trace) -> bool:
        """Tell whether too little speaks for acting."""
        return self.gate is not None and trace.evidence(self.heard) < self.gate

    def ends(self, name: str, done: Sequence[str]) -> bool:
        """Tell whether a wish to act is refused, and the acting over.

        Args:
            name: The one that would be written.
            done: The answer's actions so far.
        """
        return (self.most is not None and len(done) >= self.most) or (not self.repeats and name in done)

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
        stored = _without_old(stored)
        numbers = [stored.get(name) or 0.0 for name in ("bias", "again", "gate", "heard", "gamma", "channel")]
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
    start: float = math.inf
    """The margin at the answer's beginning."""
    heard: float = 0.0
    """By how much the action that explains the question best explains it better than not knowing what it wants, nats:
    log p(question | action) - log p(question | `channel.UNNAMED`)."""
    shut: bool = False
    """Whether that was too little to act."""
    brief: bool = False
    """Whether to end the answer once no more actions can follow."""

    def evidence(self, weight: float) -> float:
        """Return what speaks for acting before the answer begins: where a tuned model would begin with an action, or
        an action explains the question well. (Later the margins tell less: words that have named no action make most
        small models act.)

        Args:
            weight: Of what was heard.
        """
        return self.start + weight * self.heard

    def agrees(self, acting: Acting) -> bool:
        """Tell whether the answer would be the same under other numbers."""
        if self.shut or acting.shuts(self):
            return self.shut and acting.shuts(self)
        for again, bias in ((False, acting.bias), (True, acting.again)):
            if self.opened[again] + bias <= 0 or self.passed[again] + bias > 0:
                return False
        done: list[str] = []
        for choice in self.choices:
            name = choice.best(acting.gamma, acting.channel)
            if acting.ends(name, done):
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

    def best(self, gamma: float, channel: float) -> str:
        """Return the name with the highest calibrated score; the first of equals."""
        values = self.totals(gamma, channel)
        return self.names[values.index(max(values))]

    def totals(self, gamma: float, channel: float) -> list[float]:
        """Return what each name counts."""
        parts = zip(self.scores, self.blank, self.told, strict=True)
        return [score - gamma * blank + channel * told for score, blank, told in parts]


def _without_old(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    """Leave out numbers of an older actune, and say so if they were not neutral."""
    old = {name: stored[name] for name in OLD if stored.get(name)}
    if old:
        log.warning(
            either(
                f"Numbers of an older actune are not used: {old}; train again to set when to act.",
                f"旧版 actune 的数值不再使用: {old}; 重新训练即可重新校准。",
            )
        )
    return {name: value for name, value in stored.items() if name not in OLD}
