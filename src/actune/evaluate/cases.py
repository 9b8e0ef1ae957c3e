"""What is evaluated: rows with what they want, chosen, lengthened and labelled."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from actune.data.rows import Row
from actune.prompt_format import language_of
from actune.script.events import Event
from actune.script.parser import parse
from actune.script.score import named_actions
from actune.tune.split import quotas

# Bounds of the slices by length of the list.
SIZES = (4, 8, 16, 32, 64, 128)
MOST_WANTED = 3


@dataclass(frozen=True)
class Case:
    """A row to evaluate.

    Args:
        row: The row, with the list that is shown.
        wanted: The right actions.
        ordered: Whether their order counts: always in a script, and where a choice row says so.
        reference: The events of the row's script; None for a choice row.
        source: As the row says it, else its file's name.
        language: As the row says it, else by its question.
    """

    row: Row
    wanted: tuple[str, ...]
    ordered: bool
    reference: tuple[Event, ...] | None
    source: str
    language: str

    @property
    def id(self) -> str:
        """The row's id, else where it stands."""
        place = f"[{self.row.sheet}]" if self.row.sheet else ""
        return self.row.id or f"{Path(self.row.file).name}{place}:{self.row.line}"


def case_of(row: Row) -> Case:
    """Read what a row wants: its `expected` if it has that, else the actions of its script."""
    reference = tuple(parse(row.script)) if row.script else None
    wanted = row.expected if row.expected is not None else named_actions(reference or ())
    return Case(
        row,
        wanted,
        row.ordered if row.expected is not None else True,
        reference,
        row.source or Path(row.file).name,
        row.lang or language_of([row.question]),
    )


def stratified(cases: Sequence[Case], limit: int | None, seed: int) -> list[Case]:
    """Choose some cases, from each source by its share, and at least one if the limit lets it.

    Args:
        cases: All of them.
        limit: How many; None for all.
        seed: Decides which.

    Returns:
        Cases in their order.
    """
    if limit is None or limit >= len(cases):
        return list(cases)
    sources: dict[str, list[int]] = defaultdict(list)
    for index, case in enumerate(cases):
        sources[case.source].append(index)
    least = int(limit >= len(sources))
    rest = quotas({name: len(members) - least for name, members in sources.items()}, limit - least * len(sources))
    # A text seed for each source: a source more or less changes nothing in the others' order.
    taken = {
        index
        for name, members in sources.items()
        for index in random.Random(f"{seed}/{name}").sample(members, least + rest[name])
    }
    return [case for index, case in enumerate(cases) if index in taken]


def lengthened(cases: Sequence[Case], size: int | None, seed: int) -> list[Case]:
    """Fill the lists up with actions of other rows of the same language.

    A row that wants no action keeps its list: a foreign action might fit and make the row wrong. So may, more seldom,
    one beside the action that is wanted: compare the scores of one size with those of the same size.

    Args:
        cases: Cases.
        size: Names that each list should have; a longer list stays as it is. None changes nothing.
        seed: Decides which names and where they stand.
    """
    if size is None:
        return list(cases)
    pool: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        pool[case.language].update(case.row.actions)
    return [_lengthen(case, pool[case.language], size, f"{seed}/{index}") for index, case in enumerate(cases)]


def _lengthen(case: Case, pool: Collection[str], size: int, seed: str) -> Case:
    names = list(case.row.actions)
    others = sorted(set(pool) - set(names))
    missing = min(size - len(names), len(others))
    if not case.wanted or missing <= 0:
        return case
    rng = random.Random(seed)
    names += rng.sample(others, missing)
    rng.shuffle(names)
    return replace(case, row=replace(case.row, actions=tuple(names)))


def labels(case: Case, trained: Collection[str] | None, seen: bool | None) -> Mapping[str, str]:
    """Say which slices a case belongs to.

    Args:
        case: The case.
        trained: Actions that the run was trained to do; None if that is not known.
        seen: Whether the run was trained on this very row; None if that is not known.
    """
    count, size = len(case.wanted), len(case.row.actions)
    low = 0 if size == 0 else 1 + max((bound for bound in SIZES if bound < size), default=0)
    high = next((bound for bound in SIZES if bound >= size), None)
    result = {
        "wanted": str(count) if count < MOST_WANTED else f"{MOST_WANTED}+",
        "list": "0" if size == 0 else f"{low}-{high}" if high else f"{low}+",
        "source": case.source,
        "language": case.language,
    }
    if trained is not None and case.wanted:
        result["actions"] = "seen" if set(case.wanted) <= set(trained) else "unseen"
    if seen is not None:
        result["row"] = "trained" if seen else "new"
    return result
