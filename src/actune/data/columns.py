"""The columns of a table, by name, in either language."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from actune.data.report import Finding, clip
from actune.errors import either

NAMES: dict[str, tuple[str, ...]] = {
    "actions": ("actions", "行动", "行動"),
    "question": ("question", "input", "问题", "問題"),
    "answer": ("answer", "output", "回答"),
    "system": ("system", "人设", "人設"),
}
REQUIRED = ("actions", "question", "answer")
_FIELDS = {name: field for field, names in NAMES.items() for name in names}


def field_of(name: str) -> str | None:
    """Say which field of a row a column holds, None if it is not ours. Case and outer blanks do not count."""
    return _FIELDS.get(name.strip().lower())


def is_column(name: str) -> bool:
    """Tell whether a cell is a column name we know."""
    return field_of(name) is not None


def wanted_columns() -> str:
    """Name the columns a table must have."""
    return either(
        "actions, question (input), answer (output), or 行动, 问题, 回答", "行动、问题、回答(或 actions、input、output)"
    )


def check_header(header: Sequence[str], file: str, sheet: str, line: int) -> tuple[dict[str, int], list[Finding]]:
    """Map fields to the places of their columns.

    Returns:
        The map (first column of each field), and a finding for each missing or doubled one.
    """
    places: dict[str, int] = {}
    findings: list[Finding] = []
    for index, name in enumerate(header):
        field = field_of(name)
        if field is None:
            continue
        if field in places:
            both = either(
                f"columns {places[field] + 1} ({header[places[field]]}) and {index + 1} ({name}) mean the same",
                f"第 {places[field] + 1} 列({header[places[field]]})与第 {index + 1} 列({name})含义相同",
            )
            fix = either("delete or rename one of them", "请删除或改名其中一列")
            wanted = either("each column once", "每列只出现一次")
            findings.append(Finding("doubled-column", "error", file, line, name.strip(), both, wanted, fix, sheet))
        places.setdefault(field, index)
    for field in REQUIRED:
        if field not in places:
            findings.append(_missing(field, header, file, sheet, line))
    return places, findings


def _missing(field: str, header: Sequence[str], file: str, sheet: str, line: int) -> Finding:
    shown = clip(", ".join(name.strip() or "''" for name in header), 120)
    spare = [name.strip() for name in header if not is_column(name) and name.strip()]
    names = NAMES[field]
    near = [name for name in spare if difflib.get_close_matches(name.lower(), names, 1, 0.6)]
    if near:
        fix = either(
            f"did you mean {near[0]!r}? rename it to {names[0]!r}", f"是指 {near[0]!r} 吗?请改名为 {names[1]!r}"
        )
    else:
        fix = either(
            f"write the column names into the first row, {names[0]!r} among them",
            f"请在第一行写上列名,其中要有 {names[1]!r}",
        )
    wanted = either(f"a column {' / '.join(names)}", f"名为 {' / '.join(names)} 的列")
    got = either(f"columns: {shown}", f"现有列:{shown}")
    return Finding("missing-column", "error", file, line, names[0], got, wanted, fix, sheet)
