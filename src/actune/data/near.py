"""Which listed name was meant by another text."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Sequence


def nearest(name: str, names: Sequence[str], least: float = 0.5) -> str | None:
    """Find the listed name that was most likely meant; width, case and blanks count least.

    Args:
        name: What was written.
        names: What is listed.
        least: Likeness (`difflib`'s ratio) below which nothing was meant.
    """

    def plain(text: str) -> str:
        return "".join(unicodedata.normalize("NFKC", text).casefold().split())

    plains = {plain(each): each for each in reversed(names)}
    found = difflib.get_close_matches(plain(name), plains, 1, least)
    return plains[found[0]] if found else None
