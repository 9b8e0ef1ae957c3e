"""What a row looks like in one epoch: its list varied, its names respelled, now and then its wish refused or joined."""

from __future__ import annotations

import bisect
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from actune.data.refusals import refusals
from actune.data.rename import respelled
from actune.data.rows import Row
from actune.prompt_format import Language, language_of
from actune.script.events import Act, write
from actune.script.parser import parse

# Chosen for lists of 3-10 names: half of the visits keep the list as the author wrote it, the rest vary its length.
DROP_SHARE = 0.5
DROP_EACH = 0.4
MOST_ADDED = 2

Lift = Literal["near", "ordered", "refused", "respelled"]
ALL_LIFTS: frozenset[Lift] = frozenset({"near", "ordered", "refused", "respelled"})
# What is used; `benchmarks/acting.py` measures the others.
LIFTS: frozenset[Lift] = frozenset()
NEAR_SHARE = 0.5
JOINED_SHARE = 0.15
REFUSED_SHARE = 0.12
RESPELLED_SHARE = 0.3
# Partners that are looked at for a row that shall be joined.
TRIED = 8
# `{a}` comes first, whatever stands first in the text.
FRAMES: dict[Language, tuple[str, ...]] = {
    "en": (
        "First this: {a} And then: {b}",
        "{a} After that: {b}",
        "{b} But before that: {a}",
        "Two things. {a} Next, {b}",
    ),
    "zh": ("先说第一件：{a}再来第二件：{b}", "{a}然后呢，{b}", "{b}不过在那之前：{a}", "两件事。{a}接着，{b}"),
}


def all_actions(row: Row) -> tuple[str, ...]:
    """Return the actions of the row's answer, in order."""
    return tuple(event.name for event in parse(row.script) if isinstance(event, Act))


def used_actions(row: Row) -> tuple[str, ...]:
    """Return the actions of the row's answer, in order, each once."""
    return tuple(dict.fromkeys(all_actions(row)))


@dataclass(frozen=True)
class Stock:
    """What rows are varied with.

    Args:
        names: Actions of all rows, sorted, to take distractors from.
        refusals: Words for a wish that cannot be fulfilled.
        single: Rows of one turn and one action, which can be joined to two.
    """

    names: tuple[str, ...]
    refusals: dict[Language, tuple[str, ...]]
    single: tuple[Row, ...]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Stock:
        """Collect it from the training rows."""
        names = tuple(sorted({name for row in rows for name in row.actions}))
        return cls(names, refusals(rows), tuple(filter(_is_single, rows)))


def _is_single(row: Row) -> bool:
    return len(all_actions(row)) == 1 and not row.history


def augment(row: Row, stock: Stock, epoch: int, index: int, seed: int, distractors: bool) -> Row:
    """Vary a row. A pure function of its arguments and of `LIFTS`, so that a resumed run sees the same rows.

    Args:
        row: The row as its author wrote it.
        stock: What it is varied with.
        epoch: Counts from 0.
        index: The row's place among the training rows.
        seed: The run's.
        distractors: Vary more than the order of the list.

    Returns:
        The row with another list. The actions of its answer are always on it.
    """
    # A text seed goes through SHA-512: the same numbers in every process, and neighbours have nothing in common.
    rng = random.Random(f"{seed}/{epoch}/{index}")
    if distractors:
        # Each lift draws from numbers of its own: one more or less leaves the others as they are.
        if "ordered" in LIFTS:
            row = _joined(row, stock, random.Random(f"ordered/{seed}/{epoch}/{index}"))
        names = _listed(row, stock, rng)
        row = replace(row, actions=tuple(names))
        if "refused" in LIFTS:
            row = _refused(row, stock, random.Random(f"refused/{seed}/{epoch}/{index}"))
        if "respelled" in LIFTS:
            row = _respelled(row, random.Random(f"respelled/{seed}/{epoch}/{index}"))
    names = list(row.actions)
    rng.shuffle(names)
    return replace(row, actions=tuple(names))


def _listed(row: Row, stock: Stock, rng: random.Random) -> list[str]:
    """Drop unused actions and add others: about as many, for a list's length must not tell whether to act."""
    used = set(used_actions(row))
    if not used:
        # Such a row says that none of its actions fits; a foreign one might, and would make it wrong.
        return list(row.actions)
    return _drop(list(row.actions), used, rng) + _others(row.actions, used, stock.names, rng)


def _drop(names: list[str], used: set[str], rng: random.Random) -> list[str]:
    unused = [name for name in names if name not in used]
    if not unused or rng.random() >= DROP_SHARE:
        return names
    # One unused name always stays: else "use all that is listed" would be a way to be right.
    stays = rng.choice(unused)
    return [name for name in names if name in used or name == stays or rng.random() >= DROP_EACH]


def _others(listed: Sequence[str], used: set[str], pool: tuple[str, ...], rng: random.Random) -> list[str]:
    # Places are drawn, not names: a copy of thousands of names for each row took 10 ms.
    spots = ((bisect.bisect_left(pool, name), name) for name in set(listed))
    gone = sorted(spot for spot, name in spots if pool[spot : spot + 1] == (name,))
    left = range(len(pool) - len(gone))
    count = min(len(left), rng.randint(0, MOST_ADDED))
    far = [pool[_skipping(gone, place)] for place in rng.sample(left, count)]
    if "near" not in LIFTS:
        return far
    near = [name for name in pool if name not in listed and any(_is_near(name, other) for other in used)]
    chosen = rng.sample(near, min(len(near), sum(rng.random() < NEAR_SHARE for _ in far)))
    return [*chosen, *(name for name in far if name not in chosen)][:count]


def _skipping(gone: Sequence[int], place: int) -> int:
    """Turn a place among what is left into one among all."""
    for spot in gone:
        place += spot <= place
    return place


def _is_near(name: str, other: str) -> bool:
    """Tell whether two names are of one kind, or do the same with something else: `cup-wash` and `cup-fill`."""
    one, two = ((kind, detail) for kind, _, detail in (name.partition("-"), other.partition("-")))
    return one[0] == two[0] or (one[1] != "" and one[1] == two[1])


def _joined(row: Row, stock: Stock, rng: random.Random) -> Row:
    """Join the row and another one to a question with two wishes, in an order that its words tell."""
    if not _is_single(row) or rng.random() >= JOINED_SHARE:
        return row
    language = language_of([row.question])
    tried = rng.sample(stock.single, min(TRIED, len(stock.single)))
    other = next((other for other in tried if _joins(row, other, language)), None)
    if other is None:
        return row
    return replace(
        row,
        actions=tuple(dict.fromkeys((*row.actions, *other.actions))),
        question=rng.choice(FRAMES[language]).format(a=row.question, b=other.question),
        script=f"{row.script}\n{other.script}",
    )


def _joins(row: Row, other: Row, language: Language) -> bool:
    """Tell whether two rows can be one: what the one wants must not be a choice for the other."""
    return (
        other.system == row.system
        and language_of([other.question]) == language
        and not any(_is_near(name, used_actions(row)[0]) for name in other.actions)
        and not any(_is_near(name, used_actions(other)[0]) for name in row.actions)
    )


def _refused(row: Row, stock: Stock, rng: random.Random) -> Row:
    """Take the wanted action, and all of its kind, from the list; the answer then says that it cannot be done."""
    used = used_actions(row)
    if len(used) != 1 or rng.random() >= REFUSED_SHARE:
        return row
    left = tuple(name for name in row.actions if not _is_near(name, used[0]))
    if not left:
        return row
    return replace(row, actions=left, script=rng.choice(stock.refusals[language_of([row.question])]))


def _respelled(row: Row, rng: random.Random) -> Row:
    """Spell the list's names in another way, in the answers too."""
    if rng.random() >= RESPELLED_SHARE:
        return row
    new = respelled(row.actions, rng)

    def spelled(script: str) -> str:
        events = parse(script)
        return write(
            replace(event, name=new.get(event.name, event.name)) if isinstance(event, Act) else event
            for event in events
        )

    return replace(
        row,
        actions=tuple(new[name] for name in row.actions),
        script=spelled(row.script),
        history=tuple(
            replace(turn, text=spelled(turn.text)) if turn.role == "assistant" else turn for turn in row.history
        ),
    )
