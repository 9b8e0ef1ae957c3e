"""What a row looks like in one epoch: its list shuffled, unused actions dropped, other rows' actions added."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from actune.data.rows import Row
from actune.script.events import Act
from actune.script.parser import parse

# Chosen for lists of 3-10 names: half of the visits keep the list as the author wrote it, the rest vary its length.
DROP_SHARE = 0.5
DROP_EACH = 0.4
MOST_ADDED = 4


def used_actions(row: Row) -> tuple[str, ...]:
    """Return the actions of the row's answer, in order, each once."""
    return tuple(dict.fromkeys(event.name for event in parse(row.script) if isinstance(event, Act)))


def augment(row: Row, pool: Sequence[str], epoch: int, index: int, seed: int, distractors: bool) -> Row:
    """Vary a row's list of actions. A pure function of its arguments, so that a resumed run sees the same rows.

    Args:
        row: The row as its author wrote it.
        pool: Actions of all rows, to take distractors from.
        epoch: Counts from 0.
        index: The row's place among the training rows.
        seed: The run's.
        distractors: Drop unused actions and add others; otherwise the list is only shuffled.

    Returns:
        The row with another list. The actions of its answer are always on it.
    """
    # A text seed goes through SHA-512: the same numbers in every process, and neighbours have nothing in common.
    rng = random.Random(f"{seed}/{epoch}/{index}")
    names = list(row.actions)
    if distractors:
        used = set(used_actions(row))
        names = _drop(names, used, rng)
        # A row that does not act says that none of its actions fits; a foreign one might, and would make it wrong.
        if used:
            names += _others(row.actions, pool, rng)
    rng.shuffle(names)
    return replace(row, actions=tuple(names))


def _drop(names: list[str], used: set[str], rng: random.Random) -> list[str]:
    unused = [name for name in names if name not in used]
    if not unused or rng.random() >= DROP_SHARE:
        return names
    # One unused name always stays: else "use all that is listed" would be a way to be right.
    stays = rng.choice(unused)
    return [name for name in names if name in used or name == stays or rng.random() >= DROP_EACH]


def _others(listed: Sequence[str], pool: Sequence[str], rng: random.Random) -> list[str]:
    candidates = sorted(set(pool) - set(listed))
    return rng.sample(candidates, min(len(candidates), rng.randint(0, MOST_ADDED)))
