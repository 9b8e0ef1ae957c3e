"""A table in the making: what all readers share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from actune.data.columns import NAMES, check_header, field_of
from actune.data.report import Finding, clip
from actune.data.rows import Row
from actune.errors import either
from actune.script.catalogue import EMPTY_WORDS, SEPARATOR


@dataclass
class Table:
    """A file as read."""

    rows: list[Row] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    encoding: str = ""
    file: str = ""
    bare: set[int] = field(default_factory=set)
    """Places (in `rows`) of rows whose list is empty without saying so."""
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    """For each sheet, what the file calls the columns of our fields."""

    def column(self, name: str, sheet: str = "") -> str:
        """Give the name that the file writes for one of our fields."""
        return self.headers.get(sheet, {}).get(name, name)

    def error(self, code: str, line: int, column: str, got: str, wanted: str, fix: str, sheet: str = "") -> None:
        """Add an error."""
        self.findings.append(Finding(code, "error", self.file, line, column, got, wanted, fix, sheet))


def report_no_rows(table: Table, sheet: str, line: int) -> None:
    """Report a header that stands alone."""
    got = either("no rows under the column names", "列名之下没有数据行")
    table.error(
        "no-rows", line, "", got, either("at least one row", "至少一行数据"), either("fill it in", "请填写内容"), sheet
    )


def read_header(header: Sequence[str], line: int, sheet: str, table: Table) -> dict[str, int]:
    """Find our columns in the first row; others get a note."""
    places, findings = check_header(header, table.file, sheet, line)
    table.findings += findings
    table.headers[sheet] = {name: header[index].strip() for name, index in places.items()}
    others = [name.strip() for name in header if name.strip() and field_of(name) is None]
    if others:
        shown = clip(", ".join(others), 120)
        table.notes.append(either(f"{table.file}: ignored columns: {shown}", f"{table.file}:忽略的列:{shown}"))
    return places


def add_row(cells: Sequence[str], places: Mapping[str, int], line: int, sheet: str, table: Table) -> None:
    """Make a row from cells."""

    def at(name: str) -> str:
        index = places.get(name, len(cells))
        return cells[index].strip() if index < len(cells) else ""

    fields = {name: at(name) for name in NAMES}
    for name, text in fields.items():
        if "\0" in text:
            report_nul(table, line, name, text, sheet)
    names = split_cell(fields["actions"])
    # Without a column for it, the missing list is the table's fault and already said.
    if not fields["actions"] and "actions" in places:
        table.bare.add(len(table.rows))
    table.rows.append(
        Row(names, fields["question"], fields["answer"], fields["system"], file=table.file, sheet=sheet, line=line)
    )


def report_nul(table: Table, line: int, name: str, text: str, sheet: str = "") -> None:
    """Report a NUL character."""
    wanted, fix = either("text without NUL", "不含 NUL 的文本"), either("delete the NUL character", "请删除 NUL 字符")
    table.error("nul", line, table.column(name, sheet), clip(text), wanted, fix, sheet)


def split_cell(cell: str) -> tuple[str, ...]:
    """Split a cell into names just as written: blanks around a name are for the check to judge."""
    cell = cell.strip()
    return () if not cell or cell.lower() in EMPTY_WORDS else tuple(cell.split(SEPARATOR))
