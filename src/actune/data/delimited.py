"""The reader of .csv and .tsv: like the standard one, but it knows on which line a row begins and what is broken."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

_BREAK = re.compile(r"\r\n|\n|\r")

Trouble = Literal["open-quote", "stray-quote"]


@dataclass(frozen=True)
class Record:
    """One row as written.

    `line` is its first physical line, from 1. With `trouble` the cells are those before the broken one, and
    `detail` shows the broken one.
    """

    line: int
    cells: tuple[str, ...]
    trouble: Trouble | None = None
    detail: str = ""


@dataclass(frozen=True)
class _Read:
    record: Record
    end: int
    """Where the next record begins, in characters."""
    breaks: int
    """Line breaks passed."""


def read_records(text: str, delimiter: str) -> Iterator[Record]:
    """Read all rows, blank ones included (they have no cells).

    Line breaks inside quotes become ``\\n``. After a broken quote the reading goes on at the next line from which a
    row of the header's width can be read: the lines between belong to the broken row, and nothing that they seem to
    say is reported.
    """
    position, line, width = 0, 1, 0
    while position < len(text):
        read = _read_record(text, position, line, delimiter)
        yield read.record
        width = width or len(read.record.cells)
        position, line = read.end, line + read.breaks
        while read.record.trouble and position < len(text):
            ahead = _read_record(text, position, line, delimiter)
            if not ahead.record.trouble and len(ahead.record.cells) in (0, width):
                break
            skipped = _BREAK.search(text, position)
            position, line = (skipped.end() if skipped else len(text)), line + 1


def _read_record(text: str, start: int, line: int, delimiter: str) -> _Read:
    cells: list[str] = []
    position, breaks = start, 0
    plain_end = re.compile(f"{re.escape(delimiter)}|\r\n|\n|\r")
    while True:
        if text.startswith('"', position):
            cell, after = _read_quoted(text, position)
            mark = plain_end.match(text, after) if after >= 0 else None
            if after < 0 or (mark is None and after < len(text)):
                return _broken(text, start, position, after, line, cells)
            breaks += len(_BREAK.findall(text, position, after))
            cells.append(_BREAK.sub("\n", cell))
        else:
            mark = plain_end.search(text, position)
            cells.append(text[position : mark.start() if mark else len(text)])
        if mark is None:
            return _Read(Record(line, _blankless(cells)), len(text), breaks + 1)
        position = mark.end()
        if mark.group() != delimiter:
            return _Read(Record(line, _blankless(cells)), position, breaks + 1)


def _blankless(cells: list[str]) -> tuple[str, ...]:
    return tuple(cells) if len(cells) > 1 or cells[0].strip() else ()


def _read_quoted(text: str, start: int) -> tuple[str, int]:
    """Read a quoted cell; give it with the place after its closing quote, or -1 if it never closes."""
    parts: list[str] = []
    position = start + 1
    while (end := text.find('"', position)) >= 0:
        if not text.startswith('""', end):
            parts.append(text[position:end])
            return "".join(parts), end + 1
        parts.append(text[position : end + 1])
        position = end + 2
    return "", -1


def _broken(text: str, start: int, quote: int, after: int, line: int, cells: list[str]) -> _Read:
    """Report the broken quote and go back to the end of the line on which it opened.

    A quote that closes some lines later, in front of more words, was in truth left open: what closed it is the
    opening quote of another cell.
    """
    head = len(_BREAK.findall(text, start, quote))
    end = _BREAK.search(text, quote)
    stop = end.start() if end else len(text)
    trouble: Trouble = "stray-quote" if 0 <= after <= stop else "open-quote"
    record = Record(line, tuple(cells), trouble, text[quote:stop])
    return _Read(record, end.end() if end else len(text), head + 1)
