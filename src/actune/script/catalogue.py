"""The catalogue: the actions offered in one request."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

OPEN, CLOSE = "<&", "&>"
SEPARATOR = "、"
EMPTY_WORDS = frozenset({"无", "（无）", "(无)", "none", "(none)", "-"})


def name_problem(name: str) -> str | None:
    """Say why a text cannot be an action's name.

    Args:
        name: The candidate.

    Returns:
        A code, or None if the name is good: ``empty``, ``blanks`` (outer blanks), ``tag`` (holds ``<&`` or
        ``&>``) or ``control`` (line breaks, control or surrogate characters).
    """
    if not name:
        return "empty"
    if name != name.strip():
        return "blanks"
    if OPEN in name or CLOSE in name:
        return "tag"
    # Zl and Zp are Unicode's own line breaks; Cs cannot be encoded.
    if any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in name):
        return "control"
    # A name may end with `&` or `<`, or begin with `>`: the first `&>` after the opening `<&` is still its own.
    return None


def split_names(text: str) -> list[str]:
    """Split a spreadsheet cell into names at ``、`` without judging them; a word for "none" gives no names."""
    text = text.strip()
    if not text or text.lower() in EMPTY_WORDS:
        return []
    return [part.strip() for part in text.split(SEPARATOR)]


def catalogue(names: Iterable[str]) -> tuple[str, ...]:
    """Make a catalogue from names, in the order given.

    Raises:
        ValueError: A name is not allowed (see `name_problem`) or stands twice.
    """
    result = tuple(names)
    for name in result:
        if problem := name_problem(name):
            raise ValueError(f"action name {name!r} is not allowed: {problem}")
    if len(set(result)) != len(result):
        twice = next(name for name in result if result.count(name) > 1)
        raise ValueError(f"action name {twice!r} stands twice in the catalogue")
    return result
