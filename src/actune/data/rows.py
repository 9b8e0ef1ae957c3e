"""A row: one dialogue, which knows where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Turn:
    """One earlier turn. An assistant's text is a native script."""

    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True)
class Row:
    """One training dialogue, or a choice row (`expected` is set, `script` is empty): for evaluation only."""

    actions: tuple[str, ...]
    question: str
    script: str
    system: str = ""
    """Persona, put before the system text."""
    history: tuple[Turn, ...] = ()
    expected: tuple[str, ...] | None = None
    ordered: bool = False
    """Whether the order of `expected` counts."""
    describe: Mapping[str, str] = field(default_factory=dict)
    id: str = ""
    source: str = ""
    """Where the row comes from, to score by."""
    lang: str = ""
    """Language as the file says it; empty if it does not."""
    file: str = ""
    sheet: str = ""
    line: int = 0
    """First line of the row in its file, or row of the sheet, from 1."""
