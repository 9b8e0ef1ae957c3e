"""From answers to the report: scores with intervals, differences, slices, every row. `report.json` is this as it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from sacrebleu.metrics.chrf import CHRF

from actune.evaluate.answers import Answer
from actune.evaluate.bootstrap import Resampled
from actune.evaluate.cases import Case
from actune.script.events import Event, Say, write
from actune.script.score import METRICS, Outcome, Part, tally

FORMAT = 1
ALL_METRICS = (*METRICS, "chrf", "ppl", "prevented_count", "prevented_mass")
SHARES = METRICS
"""Metrics between 0 and 1."""
LOWER_IS_BETTER = frozenset({"false_action", "repeat", "unclosed", "cut", "ppl", "prevented_count", "prevented_mass"})
LANGUAGES = ("en", "zh")
_NOTHING: Part = (0, 0)


@dataclass(frozen=True)
class Result:
    """What one system made of all cases.

    Args:
        name: The system's, with `.free` if it was not constrained.
        answers: For each case.
        references: Likelihood of each case's reference, from `likelihood.reference_parts`; (0, 0) without one.
    """

    name: str
    answers: Sequence[Answer]
    references: Sequence[Part]

    @property
    def free(self) -> bool:
        """Whether the constraint was lifted."""
        return self.name.endswith(".free")


def parts_of(case: Case, answer: Answer, reference: Part, free: bool) -> dict[str, Part]:
    """Count one answer for all metrics.

    Beside those of `script.score`:

    * ``chrf``: chrF2 (Popović 2015, as sacrebleu computes it, 0 to 100) of the words without tags against those of
      the reference, mean over the answers whose reference has words.
    * ``ppl``: exp of the mean of -log p over the tokens of the references, tags and stop token included.
    * ``prevented_count``: steps at which the likeliest token was forbidden / answers. ``prevented_mass``: at those
      steps, the probability of all that was forbidden, mean.
    """
    outcome = Outcome(case.wanted, case.ordered, case.row.actions, answer.events, case.reference)
    watch = answer.watch
    return {
        **tally(outcome),
        "chrf": _chrf(answer.events, case.reference),
        "ppl": reference,
        "prevented_count": _NOTHING if free or watch is None else (watch.count, 1),
        "prevented_mass": _NOTHING if free or watch is None else (watch.mass, watch.count),
    }


def _words(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Say)).strip()


def _chrf(written: Sequence[Event], reference: Sequence[Event] | None) -> Part:
    words = _words(reference or ())
    return (CHRF().sentence_score(_words(written), [words]).score, 1) if words else _NOTHING


def make_report(
    about: Mapping[str, Any],
    cases: Sequence[Case],
    labels: Sequence[Mapping[str, str]],
    results: Sequence[Result],
    forgetting: Mapping[str, Sequence[tuple[str, Part]]],
    seed: int,
) -> dict[str, Any]:
    """Score everything.

    Args:
        about: What was evaluated and how; it goes into the report as it is.
        cases: The cases.
        labels: Of each case, from `cases.labels`.
        results: Of each system.
        forgetting: For each system the language and KL of each general question.
        seed: Of the resampling.

    Returns:
        The report, which `json.dumps` takes: ``format``, ``about``, ``scores``, ``difference``, ``slices``,
        ``forgetting`` and ``rows``. Metrics are those of `score.measure` and `parts_of`.
    """
    parts = {
        result.name: [
            parts_of(case, answer, reference, result.free)
            for case, answer, reference in zip(cases, result.answers, result.references, strict=True)
        ]
        for result in results
    }
    whole = {name: Resampled(rows, seed) for name, rows in parts.items()}
    return {
        "format": FORMAT,
        "about": dict(about),
        "scores": {name: _estimates(each) for name, each in whole.items()},
        "difference": _differences(whole),
        "slices": _slices(parts, labels, seed),
        "forgetting": {name: _forgetting(rows, seed) for name, rows in forgetting.items()},
        "rows": [_row(index, case, labels[index], results) for index, case in enumerate(cases)],
    }


def _estimates(sample: Resampled) -> dict[str, Any]:
    return {name: estimate.to_dict() for name, estimate in sample.estimates().items()}


def _differences(whole: Mapping[str, Resampled]) -> list[dict[str, Any]]:
    return [
        {"a": a, "b": b, "metric": metric, "value": each.value, "low": each.low, "high": each.high}
        for a, b in combinations(whole, 2)
        for metric, each in whole[a].minus(whole[b]).items()
    ]


def _slices(
    parts: Mapping[str, Sequence[Mapping[str, Part]]], labels: Sequence[Mapping[str, str]], seed: int
) -> dict[str, Any]:
    members: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, label in enumerate(labels):
        for by, value in label.items():
            members[by][value].append(index)
    return {
        by: {
            value: {
                name: _estimates(Resampled([rows[index] for index in indices], seed)) for name, rows in parts.items()
            }
            for value, indices in sorted(values.items(), key=_by_number)
        }
        for by, values in members.items()
    }


def _by_number(item: tuple[str, object]) -> tuple[int, str]:
    digits = item[0].split("-")[0].rstrip("+")
    return (int(digits) if digits.isdecimal() else 0), item[0]


def _forgetting(rows: Sequence[tuple[str, Part]], seed: int) -> dict[str, Any]:
    def estimate(some: Sequence[Part]) -> dict[str, Any]:
        return _estimates(Resampled([{"kl": part} for part in some], seed))["kl"] if some else {}

    return {
        **estimate([part for _, part in rows]),
        "languages": {lang: estimate([part for name, part in rows if name == lang]) for lang in LANGUAGES},
    }


def _row(index: int, case: Case, label: Mapping[str, str], results: Sequence[Result]) -> dict[str, Any]:
    row = case.row
    return {
        "id": case.id,
        "file": row.file,
        "line": row.line,
        "question": row.question,
        "history": [[turn.role, turn.text] for turn in row.history],
        "actions": list(row.actions),
        "expected": list(case.wanted),
        "ordered": case.ordered,
        "reference": row.script or None,
        "source": case.source,
        "language": case.language,
        "seen": {"trained": True, "new": False}.get(label.get("row", "")),
        "answers": {result.name: write(result.answers[index].events) for result in results},
    }
