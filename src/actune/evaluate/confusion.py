"""What was chosen against what was wanted, from the rows of a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from actune.script.parser import parse
from actune.script.score import Outcome, named_actions, tally


def is_right(row: Mapping[str, Any], system: str) -> bool:
    """Tell whether a system's answer is exactly right, as ``exact_act`` and ``exact_none`` count it."""
    written = tuple(parse(row["answers"][system], row["actions"]))
    parts = tally(Outcome(tuple(row["expected"]), row["ordered"], tuple(row["actions"]), written))
    return bool(parts["exact_act"][0] or parts["exact_none"][0])


def confusion(rows: Sequence[Mapping[str, Any]], system: str) -> Counter[tuple[str, str]]:
    """Count pairs of a wanted and a chosen action; "" stands for nothing.

    In each row, what is both wanted and named is paired with itself; then the missed actions with the wrong ones, in
    their order; the rest with nothing.
    """
    pairs: Counter[tuple[str, str]] = Counter()
    for row in rows:
        named = named_actions(parse(row["answers"][system], row["actions"]))
        both = Counter(row["expected"]) & Counter(named)
        missed, wrong = _without(row["expected"], both), _without(named, both)
        pairs.update({(name, name): count for name, count in both.items()})
        longest = max(len(missed), len(wrong))
        pairs.update(zip(_padded(missed, longest), _padded(wrong, longest), strict=True))
    return pairs


def _without(names: Sequence[str], taken: Counter[str]) -> list[str]:
    left = Counter(taken)
    result = []
    for name in names:
        if left[name]:
            left[name] -= 1
        else:
            result.append(name)
    return result


def _padded(names: list[str], length: int) -> list[str]:
    return names + [""] * (length - len(names))
