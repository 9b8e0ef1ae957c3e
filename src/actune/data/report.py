"""Findings, and the one report that shows all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from actune.errors import either

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One problem of one input: where, what was got, what is wanted, how to mend it."""

    code: str
    """What kind of problem it is; the same in every language, for scripts."""
    severity: Severity
    file: str
    line: int
    """First line of the row in its file, or row of the sheet, from 1; 0 if the whole file is meant."""
    column: str
    """The column's name as the file writes it; empty if none is meant."""
    got: str
    wanted: str
    fix: str
    sheet: str = ""

    @property
    def where(self) -> str:
        """The place, written ``file[sheet]:line``."""
        place = f"{self.file}[{self.sheet}]" if self.sheet else self.file
        return f"{place}:{self.line}" if self.line else place


@dataclass(frozen=True)
class Summary:
    """Figures of all tables together."""

    rows: int = 0
    choice_rows: int = 0
    actions: int = 0
    """Distinct names in all lists."""
    uses: Mapping[str, int] = field(default_factory=dict)
    """How many training rows use ``0``, ``1``, ``2``, ``3+`` actions."""
    never_used: tuple[str, ...] = ()
    encodings: Mapping[str, str] = field(default_factory=dict)
    """The encoding each file was read with."""
    tokens: Mapping[str, int] = field(default_factory=dict)
    """Lengths of prompt and answer together, in tokens of the base; empty without a base."""


@dataclass(frozen=True)
class Report:
    """All findings and notes of a check, with the summary."""

    findings: tuple[Finding, ...]
    summary: Summary = Summary()
    notes: tuple[str, ...] = ()

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that must be mended."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings worth a look."""
        return tuple(finding for finding in self.findings if finding.severity == "warning")

    def exit_code(self, strict: bool = False) -> int:
        """Give 1 if there are errors (`strict`: or warnings), else 0."""
        return int(bool(self.errors or (strict and self.warnings)))

    def to_json(self) -> dict[str, Any]:
        """Give the report as a dict that `json.dumps` takes."""
        return {
            "errors": [asdict(finding) for finding in self.errors],
            "warnings": [asdict(finding) for finding in self.warnings],
            "notes": list(self.notes),
            "summary": asdict(self.summary),
        }


def clip(text: str, width: int = 80) -> str:
    """Show a text in one line of at most `width` characters; what cannot be printed is escaped."""
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    return shown if len(shown) <= width else shown[: width - 1] + "…"


def finding_lines(finding: Finding) -> Iterator[str]:
    """Write a finding as lines: the place, then got, wanted and fix."""
    column = either(f"column {finding.column}", f"列 {finding.column}") if finding.column else ""
    yield "  ".join(part for part in (finding.where, column, f"[{finding.code}]") if part)
    labels = either("got,wanted,fix", "得到,需要,办法").split(",")
    for label, text in zip(labels, (finding.got, finding.wanted, finding.fix), strict=True):
        if text:
            yield f"    {label}: {text}"


def summary_lines(summary: Summary) -> Iterator[str]:
    """Write the figures as lines."""
    for file, encoding in summary.encodings.items():
        yield either(f"read {file} as {encoding}", f"已按 {encoding} 读取 {file}")
    yield either(
        f"rows: {summary.rows} (choice rows: {summary.choice_rows}), distinct actions: {summary.actions}",
        f"行数:{summary.rows}(其中选择题 {summary.choice_rows}),不同动作:{summary.actions}",
    )
    if summary.uses:
        uses = ", ".join(f"{count}: {rows}" for count, rows in summary.uses.items())
        yield either(f"rows by actions used: {uses}", f"按所用动作数统计的行数:{uses}")
    if summary.never_used:
        names = clip("、".join(summary.never_used), 160)
        count = len(summary.never_used)
        yield either(f"listed but never used ({count}): {names}", f"列出但从未用过({count}):{names}")
    if summary.tokens:
        tokens = ", ".join(f"{name} {value}" for name, value in summary.tokens.items())
        yield either(f"tokens a row: {tokens}", f"每行 token 数:{tokens}")


def in_order(findings: Iterable[Finding], files: Iterable[str]) -> tuple[Finding, ...]:
    """Sort findings by file (as given), sheet and line."""
    place = {file: index for index, file in reversed(list(enumerate(files)))}
    return tuple(sorted(findings, key=lambda each: (place.get(each.file, len(place)), each.sheet, each.line)))
