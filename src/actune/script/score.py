"""Scores of answers: pure counting, the same in training and in evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from actune.script.catalogue import CLOSE, OPEN
from actune.script.events import Act, Done, Event, Fault, Say

METRICS = (
    "valid",
    "precision",
    "recall",
    "f1",
    "exact_act",
    "exact_none",
    "order",
    "position",
    "none_right",
    "false_action",
    "repeat",
    "unclosed",
    "cut",
)

Part = tuple[float, float]
"""What one answer adds to a metric's numerator and denominator."""


@dataclass(frozen=True)
class Outcome:
    """An answer beside what was wanted.

    Args:
        wanted: The actions that are right, in order; a name may stand twice.
        ordered: Whether their order counts.
        listed: The catalogue of the request.
        written: Events of the answer; a `Done` among them tells how it ended.
        reference: Events of the answer that a person wrote, if there is one.
    """

    wanted: tuple[str, ...]
    ordered: bool
    listed: tuple[str, ...]
    written: tuple[Event, ...]
    reference: tuple[Event, ...] | None = None


def measure(outcomes: Sequence[Outcome]) -> dict[str, float | None]:
    """Score answers.

    All scores are shares, 0 to 1, and micro averages: each is one sum over all answers divided by another. A *tag* is
    whatever begins with ``<&``. *Named* are the actions of the well-formed tags, listed or not (an invented action is
    a wrong choice, not none); *performed* are those of them that are listed. Actions are counted as multisets: the
    k-th ``a`` that is written matches the k-th ``a`` that is wanted.

    * ``valid``: tags that are well-formed and listed / tags.
    * ``precision``, ``recall``, ``f1``: named and wanted / named; / wanted; twice that / (named + wanted). Order does
      not count (Manning et al., *Introduction to Information Retrieval*, 8.3; counts summed over answers first).
    * ``exact_act``: answers whose named actions are the wanted ones, in order where it counts, without a malformed
      tag / answers for which an action is wanted. ``exact_none``: answers without any tag / answers for which none is
      wanted. Apart, since whoever says nothing is right in the second for nothing.
    * ``order``: pairs of different actions that stand in the wanted order / pairs that are both wanted and named, in
      rows whose order counts. (1 + Kendall's tau) / 2, summed over answers.
    * ``position``: actions with words before them exactly if the reference has words before them, and words after
      them likewise / actions that are both in the reference and named. Blanks are no words.
    * ``none_right``: answers that name no action / answers for which none is wanted. Differs from ``exact_none`` by
      malformed tags. ``false_action``: answers that perform one / the same; an invented action is in neither.
    * ``repeat``: named actions that were named before in the answer, more often than wanted / named.
    * ``unclosed``: answers with a tag that does not close / answers.
    * ``cut``: answers that ran out of their budget / answers that tell how they ended.

    Args:
        outcomes: Any number of answers.

    Returns:
        Each of `METRICS`; None where the denominator is 0.
    """
    return ratios([tally(outcome) for outcome in outcomes])


def ratios(tallies: Sequence[Mapping[str, Part]]) -> dict[str, float | None]:
    """Sum what `tally` gives for some answers and divide."""
    result: dict[str, float | None] = {}
    for name in METRICS:
        over = sum(each[name][0] for each in tallies)
        under = sum(each[name][1] for each in tallies)
        result[name] = over / under if under else None
    return result


def tally(outcome: Outcome) -> dict[str, Part]:
    """Count one answer: numerator and denominator of each of `METRICS`, to be summed over answers."""
    wanted, named = Counter(outcome.wanted), Counter(named_actions(outcome.written))
    both, all_named, all_wanted = (wanted & named).total(), named.total(), wanted.total()
    tags = [event for event in outcome.written if _is_tag(event)]
    performed = sum(isinstance(tag, Act) and tag.name in outcome.listed for tag in tags)
    again = sum(max(0, count - max(1, wanted[name])) for name, count in named.items())
    acts, none = int(all_wanted > 0), int(all_wanted == 0)
    ends = [event.reason for event in outcome.written if isinstance(event, Done)]
    return {
        "valid": (performed, len(tags)),
        "precision": (both, all_named),
        "recall": (both, all_wanted),
        "f1": (2 * both, all_named + all_wanted),
        "exact_act": (acts * _is_exact(outcome, tags), acts),
        "exact_none": (none * (not tags), none),
        "order": _order(outcome),
        "position": _position(outcome),
        "none_right": (none * (all_named == 0), none),
        "false_action": (none * (performed > 0), none),
        "repeat": (again, all_named),
        "unclosed": (any(isinstance(tag, Fault) and tag.kind in ("unclosed", "nested") for tag in tags), 1),
        "cut": ("length" in ends, int(bool(ends))),
    }


def named_actions(events: Sequence[Event]) -> tuple[str, ...]:
    """Return the names in the well-formed tags of an answer, listed or not, in order."""
    return tuple(name for name, _ in _named(events))


def _named(events: Sequence[Event]) -> Iterator[tuple[str, int]]:
    for place, event in enumerate(events):
        if isinstance(event, Act):
            yield event.name, place
        elif isinstance(event, Fault) and event.kind == "unlisted":
            yield event.raw.removeprefix(OPEN).removesuffix(CLOSE), place


def _is_tag(event: Event) -> bool:
    return isinstance(event, Act) or (isinstance(event, Fault) and event.kind != "model")


def _is_exact(outcome: Outcome, tags: Sequence[Event]) -> bool:
    named = named_actions(outcome.written)
    if len(named) < len(tags):
        return False
    return named == outcome.wanted if outcome.ordered else Counter(named) == Counter(outcome.wanted)


def _nth(names: Sequence[str]) -> list[tuple[str, int]]:
    """Number the occurrences of each name, so that the k-th of one text matches the k-th of another."""
    seen: Counter[str] = Counter()
    result = []
    for name in names:
        result.append((name, seen[name]))
        seen[name] += 1
    return result


def _order(outcome: Outcome) -> Part:
    if not outcome.ordered:
        return 0, 0
    place = {key: index for index, key in enumerate(_nth(named_actions(outcome.written)))}
    common = [key for key in _nth(outcome.wanted) if key in place]
    pairs = [(a, b) for a, b in combinations(common, 2) if a[0] != b[0]]
    return sum(place[a] < place[b] for a, b in pairs), len(pairs)


def _position(outcome: Outcome) -> Part:
    if outcome.reference is None:
        return 0, 0
    wanted, got = _surroundings(outcome.reference), _surroundings(outcome.written)
    common = wanted.keys() & got.keys()
    return sum(wanted[key] == got[key] for key in common), len(common)


def _surroundings(events: Sequence[Event]) -> dict[tuple[str, int], tuple[bool, bool]]:
    """Tell of each named action whether words stand before and after it."""
    spoken = [place for place, event in enumerate(events) if isinstance(event, Say) and event.text.strip()]
    found = list(_named(events))
    keys = _nth([name for name, _ in found])
    return {
        key: (any(word < place for word in spoken), any(word > place for word in spoken))
        for key, (_, place) in zip(keys, found, strict=True)
    }
