"""Other spellings of a list's names, so that a model reads names and does not remember them.

A name keeps its words: only their order, what stands between them and their capitals change. So no row can become
wrong, whatever its words mean.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from actune.script.catalogue import name_problem


def _swapped(name: str) -> str:
    kind, dash, detail = name.partition("-")
    return f"{detail}-{kind}" if dash and detail else name


def _camel(name: str) -> str:
    first, *others = re.split(r"[-_ ]+", name)
    return first + "".join(word[:1].upper() + word[1:] for word in others)


def _between(mark: str) -> Callable[[str], str]:
    return lambda name: name.replace("-", mark)


STYLES: tuple[Callable[[str], str], ...] = (
    _swapped,
    _camel,
    str.title,
    lambda name: re.sub(r"[- ]+", "_", name),
    *map(_between, (" ", ": ", ".", "/")),
)


def respelled(names: Sequence[str], rng: random.Random) -> dict[str, str]:
    """Choose a spelling for all names of a list.

    Args:
        names: Different names.
        rng: Decides which spelling.

    Returns:
        The new name of each; the old ones where the chosen spelling would make two alike or one impossible.
    """
    style = rng.choice(STYLES)
    new = {name: style(name) for name in names}
    good = len(set(new.values())) == len(new) and not any(map(name_problem, new.values()))
    return new if good else {name: name for name in names}
