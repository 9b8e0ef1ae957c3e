"""Finding the numbers of `Acting` on the validation rows: when to act, how often, and which of the names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from actune import prompt
from actune.channel import channel_of
from actune.data.augment import all_actions
from actune.data.rows import Row
from actune.engine.local import LocalEngine, Request
from actune.errors import either
from actune.prompt import PromptFormat
from actune.reader import Reader
from actune.script.acting import Acting, Trace
from actune.script.events import Event
from actune.script.score import Outcome, measure
from actune.tune.encode import encode
from actune.tune.exam import MOST_TOKENS, Answer

# With fewer rows the best of many numbers is the luckiest; more take minutes.
LEAST_ROWS, MOST_ROWS = 16, 48
# Rows without an action that shall be left alone, and what each part less costs in f1. A price and not a bound: a model
# that cannot tell when to act would otherwise be made to act never.
NONE_RIGHT, PRICE = 0.7, 0.5
# Better than the model left alone on every run measured (`docs/acting.md`): small models act again and again once they
# act, and the wish to repeat says that the acting is over; names they know badly they choose better from both ends.
START = Acting(repeats=False, gamma=0.75, channel=0.5, heard=0.2)
# What is this much better in f1 is worth a number; less is chance, and the simpler numbers are kept.
WORTH = 0.01
# Of gates that are worth so much less than the best one at most the middle one is taken: rows of another kind have more
# evidence or less, and at either end of what is good here one of the two falls off.
SLACK = 0.02

# Weights gamma and channel of the choice. Few: among many the luckiest would be taken.
CHOICES = ((START.gamma, START.channel), (0.0, 0.0), (0.5, 0.25), (1.0, 1.0))
MOSTS = (None, 3, 2, 1)
# Values tried of a bias: so many, spread over those at which some row's answer changes. A gate costs no new answers.
SPREAD, GATES = 4, 12
# Answers written for each row at most, on average: what calibration costs is bounded by that, and by `MOST_TOKENS`.
WRITTEN = 4


@dataclass
class _Asked:
    """A row, and every answer to it so far with what it hung on."""

    row: Row
    request: Request
    left_alone: Outcome | None = None
    """The answer under neutral numbers, where nothing is decided and so nothing is traced."""
    known: list[tuple[Trace, Outcome]] = field(default_factory=list)

    def outcome(self, acting: Acting) -> Outcome | None:
        """Find the answer under these numbers, if it is one of those known."""
        if acting.neutral:
            return self.left_alone
        if self.known and acting.shuts(self.known[0][0]):
            return Answer(self.row, ()).outcome  # the evidence is the same under all numbers
        return next((outcome for trace, outcome in self.known if trace.agrees(acting)), None)

    def trace(self, acting: Acting) -> Trace | None:
        """Find what the answer under these numbers hung on."""
        return next((trace for trace, _ in self.known if trace.agrees(acting)), None)


@dataclass
class _Search:
    """Scores numbers; answers that other numbers would not change are not written again."""

    engine: LocalEngine
    asked: list[_Asked]
    each: int = WRITTEN
    written: int = 0
    tried: dict[Acting, dict[str, float | None]] = field(default_factory=dict)

    def scores(self, acting: Acting) -> dict[str, float | None]:
        """Score all rows under these numbers."""
        if acting not in self.tried:
            self._write([one for one in self.asked if one.outcome(acting) is None], acting)
            outcomes = [outcome for one in self.asked if (outcome := one.outcome(acting)) is not None]
            self.tried[acting] = measure(outcomes)
        return self.tried[acting]

    def traces(self, acting: Acting) -> list[Trace]:
        """Tell what the rows' answers hang on; under neutral numbers, where nothing is traced, under the nearest."""
        near = replace(acting, repeats=False) if acting.neutral else acting
        self.scores(near)
        return [trace for one in self.asked if (trace := one.trace(near)) is not None]

    def worth(self, acting: Acting) -> float:
        """Give numbers a worth: their f1, less the price of acting where nothing is wanted."""
        scores = self.scores(acting)
        none_right, f1 = scores["none_right"], scores["f1"]
        return (f1 or 0.0) - PRICE * max(0.0, NONE_RIGHT - (NONE_RIGHT if none_right is None else none_right))

    def best(self, start: Acting, others: Iterable[Acting]) -> Acting:
        """Take the best; a later one only if it is worth it."""
        best = start
        for acting in others:
            if self.affords(acting) and self.worth(acting) > self.worth(best) + WORTH:
                best = acting
        return best

    def affords(self, acting: Acting) -> bool:
        """Tell whether the answers that are missing may still be written."""
        missing = sum(one.outcome(acting) is None for one in self.asked)
        return self.written + missing <= self.each * len(self.asked)

    def _write(self, missing: list[_Asked], acting: Acting) -> None:
        traces = [Trace(brief=True) for _ in missing]
        requests = [replace(one.request, acting=acting, trace=t) for one, t in zip(missing, traces, strict=True)]
        for one, trace, tokens in zip(missing, traces, self.engine.generate(requests), strict=True):
            outcome = Answer(one.row, tuple(self._events(one.row, tokens))).outcome
            if acting.neutral:
                one.left_alone = outcome
            else:
                one.known.append((trace, outcome))
        self.written += len(missing)

    def _events(self, row: Row, tokens: list[int]) -> list[Event]:
        reader = Reader(self.engine.vocabulary.token_bytes, self.engine.stop_ids, row.actions, blank=False)
        events = [event for token in tokens for event in reader.feed(token)]
        return [*events, *reader.close()]


def calibrate(
    engine: LocalEngine, fmt: PromptFormat, rows: Sequence[Row], each: int = WRITTEN
) -> tuple[Acting, dict[str, Any]]:
    """Find the numbers with the best f1 that still leave rows without an action alone.

    One number after the other, each over its grid with the others held; greedy answers, at most `MOST_ROWS` rows. An
    answer is written again only for numbers under which it would be another one, and only as long as it acts; beyond
    `each` answers a row, numbers that need more are left out: with one, little more than the gate is looked for.

    Args:
        engine: With the tuned model, in evaluation mode.
        fmt: The run's prompt format.
        rows: Validation rows with scripts; never those that are reported on.
        each: Answers written for a row at most, on average.

    Returns:
        The numbers, `START` with fewer than `LEAST_ROWS` rows, and what was tried: ``rows``, ``written`` (answers),
        ``note``, ``start`` and ``chosen`` (scores), ``tried`` (numbers with f1 and none_right).
    """
    kept = [row for row in rows if row.script]
    if len(kept) < LEAST_ROWS:
        return START, too_few(len(kept))
    some = spread(kept, MOST_ROWS)
    search = _Search(engine, [_Asked(row, _request(engine, fmt, row)) for row in some], each)
    best = _gate(search, START)
    for step in (_count, _choice, _first, _next):
        best = search.best(best, step(search, best))
    best = _gate(search, best)  # the choice has changed since, and with it what each gate is worth
    tried = [{**acting.to_dict(), **_brief(scores)} for acting, scores in search.tried.items()]
    found = {"start": search.tried[START], "chosen": search.tried[best], "tried": tried}
    return best, {"rows": len(some), "written": search.written, "note": "", **found}


def too_few(rows: int) -> dict[str, Any]:
    """Return what `calibrate` gives beside `START` for so few rows, with the reason in ``note``.

    Args:
        rows: How many there are.
    """
    note = either(
        f"{rows} validation rows are too few (at least {LEAST_ROWS}) to set when and how to act",
        f"验证数据只有 {rows} 行 (至少 {LEAST_ROWS} 行), 不足以校准何时行动",
    )
    return {"rows": rows, "written": 0, "note": note, "tried": []}


def spread(rows: Sequence[Row], many: int) -> list[Row]:
    """Take at most so many rows, from all over."""
    many = min(many, len(rows))
    return [rows[place * len(rows) // many] for place in range(many)]


def _count(search: _Search, acting: Acting) -> Iterator[Acting]:
    twice = any(len(set(names)) < len(names) for names in (all_actions(one.row) for one in search.asked))
    # Whether an action may come twice is a question only to rows of which one does it.
    yield from (replace(acting, repeats=repeats, most=most) for repeats in (False, *[True] * twice) for most in MOSTS)


def _choice(search: _Search, acting: Acting) -> Iterator[Acting]:
    yield from (replace(acting, gamma=gamma, channel=channel) for gamma, channel in CHOICES)


def _gate(search: _Search, acting: Acting) -> Acting:
    """Give numbers no gate, if that is good enough, or else the middle one of those that are, whatever they had."""
    search.scores(acting)
    evidence = sorted(one.known[0][0].evidence(acting.heard) for one in search.asked if one.known)
    edges = [(below + above) / 2 for below, above in pairwise(evidence)]
    gates = [one for gate in (None, *_spread(edges, GATES)) if search.affords(one := replace(acting, gate=gate))]
    least = max(map(search.worth, gates), default=0.0) - SLACK
    good = [one for one in gates if search.worth(one) >= least]
    if not good:
        return acting
    return good[0] if good[0].gate is None else good[len(good) // 2]


def _first(search: _Search, acting: Acting) -> Iterator[Acting]:
    yield from (replace(acting, bias=bias) for bias in _biases(search.traces(acting), again=False))


def _next(search: _Search, acting: Acting) -> Iterator[Acting]:
    yield from (replace(acting, again=bias) for bias in _biases(search.traces(acting), again=True))


def _biases(traces: Iterable[Trace], again: bool) -> list[float]:
    """Biases just beyond which some answer opens a tag, or does not: the mildest first."""
    edges = [edge for trace in traces for edge in (-trace.opened[again] - 0.02, -trace.passed[again] + 0.02)]
    return sorted(_spread(edges, SPREAD), key=abs)


def _spread(values: Iterable[float], many: int) -> list[float]:
    """Take at most so many of some numbers, from the least to the greatest."""
    known = sorted({round(value, 2) for value in values if math.isfinite(value)})
    if len(known) <= many:
        return known
    return [known[place * (len(known) - 1) // (many - 1)] for place in range(many)]


def _request(engine: LocalEngine, fmt: PromptFormat, row: Row) -> Request:
    example = encode(row, engine.tokenizer, fmt)
    return Request(
        example.input_ids[: -example.trained],
        row.actions,
        # A good answer is about as long as the author's; what comes much later is no longer asked for.
        min(MOST_TOKENS, 16 + 2 * example.trained),
        blank=prompt.blank_ids(engine.tokenizer, fmt, row.actions, row.system),
        channel=channel_of(engine.tokenizer, row.question, row.actions),
    )


def _brief(scores: dict[str, float | None]) -> dict[str, float | None]:
    return {name: None if (value := scores[name]) is None else round(value, 4) for name in ("f1", "none_right")}
