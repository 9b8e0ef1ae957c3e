"""Find out the encoding of a table, or say that it is in doubt."""

from __future__ import annotations

import codecs
import itertools
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from actune.errors import UserError, either

# cp1252 leaves five bytes undefined and latin-1 none: only the former can refuse a file.
CANDIDATES = ("gb18030", "big5", "cp1252")
SURE, LEAD = 0.75, 0.25
_TYPOGRAPHY = frozenset("‘’‚“”„–—…«»¿¡°€£©®™·•§\u00a0")
_LETTERS = frozenset(chr(code) for code in range(0xC0, 0x100) if code not in (0xD7, 0xF7)) | frozenset("ŠŒŽšœžŸªº")
_HAN_MARKS = "，、。！？：；「」『』（）《》【】“”‘’…—～·－％．／\u3000"


@dataclass(frozen=True)
class Decoded:
    """A file's text, and how sure we are of it."""

    text: str
    encoding: str
    bad_lines: tuple[int, ...] = ()
    """Lines (from 1) with bytes that the encoding does not know."""
    readings: tuple[tuple[str, str], ...] = ()
    """In doubt: (encoding, how it reads the first line that differs)."""
    doubt_line: int = 0
    runner_up: tuple[str, str, str] | None = None
    """Decided against: (other encoding, the chosen reading, the other one) of the first line that differs."""


def decode(data: bytes, encoding: str | None, is_column: Callable[[str], bool]) -> Decoded:
    """Turn the bytes of a table into text.

    Args:
        data: The whole file.
        encoding: The user's word on it; None to find out.
        is_column: Tells whether a cell of the first line is a column name we know; that often settles a doubt.

    Raises:
        UserError: `encoding` is no text encoding.
    """
    if encoding:
        return _forced(data, encoding)
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if data.startswith(mark):
            return _replacing(data, name)
    if wide := _utf16_without_mark(data):
        return _replacing(data, wide)
    if _decodes(data, "utf-8") or _nearly_utf8(data):
        return _replacing(data, "utf-8")
    return _by_score(data, is_column)


def _forced(data: bytes, encoding: str) -> Decoded:
    try:
        name = codecs.lookup(encoding).name
        # The mark of utf-8-sig is taken off whichever name the user gave the encoding.
        return _replacing(data, "utf-8-sig" if name == "utf-8" and data.startswith(codecs.BOM_UTF8) else name)
    # Of text encodings all but idna and its kin can go on after a bad byte.
    except (LookupError, ValueError):
        raise UserError(
            "--encoding",
            repr(encoding),
            "utf-8, utf-16, gb18030, big5, cp1252, ...",
            either("name one of these, or leave the option out", "请改用其中之一,或去掉该选项"),
        ) from None


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeError:
        return False
    return True


def _replacing(data: bytes, encoding: str) -> Decoded:
    if _decodes(data, encoding):
        return Decoded(data.decode(encoding), encoding)
    # U+FFFD may also stand in the file itself; the private mark tells ours apart.
    mark = "\U0010fffd"

    def put_mark(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeDecodeError):
            raise error
        return mark, error.end

    codecs.register_error("actune-mark", put_mark)
    text = data.decode(encoding, errors="actune-mark")
    lines = re.split(r"\r\n|\n|\r", text)
    bad = tuple(number for number, line in enumerate(lines, 1) if mark in line)
    return Decoded(text.replace(mark, "\ufffd"), encoding, bad)


def _utf16_without_mark(data: bytes) -> str | None:
    """Recognise UTF-16 by the zero bytes of its line breaks and commas, which stand on one side."""
    if len(data) % 2 or 20 * data.count(0) < len(data):
        return None
    even, odd = data[0::2].count(0), data[1::2].count(0)
    name = "utf-16-le" if odd > even else "utf-16-be"
    if not _decodes(data, name):
        return None
    text = data.decode(name)
    # A text in UTF-8 with NUL in it gives random characters here, and hardly a line break.
    good = any(mark in text for mark in "\n\r,\t") and _score_hanzi(text) >= SURE
    return name if good else None


def _nearly_utf8(data: bytes) -> bool:
    """Tell whether a file is UTF-8 but for a few broken bytes (at most one for ten good characters)."""
    text = data.decode("utf-8", errors="replace")
    high = [char for char in text if char > "\x7f"]
    bad = high.count("\ufffd")
    return len(high) - bad >= 5 and bad * 10 <= len(high)


@cache
def _common() -> frozenset[str]:
    """Give the everyday characters: level 1 of GB 2312 and of Big5, and punctuation."""
    first = itertools.product(range(0xB0, 0xD8), range(0xA1, 0xFF))
    second = itertools.product(range(0xA4, 0xC7), (*range(0x40, 0x7F), *range(0xA1, 0xFF)))
    pairs = itertools.chain(((pair, "gb2312") for pair in first), ((pair, "big5") for pair in second))
    return frozenset(bytes(pair).decode(name, errors="ignore") for pair, name in pairs) | frozenset(_HAN_MARKS)


def _score_hanzi(text: str) -> float:
    """Give the share of everyday characters among those beyond ASCII (1.0 if there are none)."""
    high = [char for char in text if char > "\x7f"]
    if not high:
        return 1.0
    # Emoji exist in GB18030 as four bytes and are no sign of a misreading.
    good = sum(char in _common() or (char > "\uffff" and unicodedata.category(char) == "So") for char in high)
    return good / len(high)


def _score_latin(text: str) -> float:
    """Give the share of letters and typographic marks that stand as they do in Western text."""
    good = total = 0
    for match in re.finditer(r"[^\x00-\x7f]+", text):
        run = match.group()
        total += len(run)
        before, after = text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1]
        good += len(run) if _is_western(run, before, after) else 0
    return good / total if total else 1.0


def _is_western(run: str, before: str, after: str) -> bool:
    """Tell whether a run of characters beyond ASCII looks Western between its neighbours."""
    if len(run) == 1 and run in _LETTERS:
        return not (before.isdigit() or after.isdigit())
    if run[0] in "¡¿" and before.isalnum():
        return False
    # größer, Noël’s: two small letters, or marks with at most one letter among them.
    small = len(run) == 2 and all(char in _LETTERS and char.islower() for char in run)
    marks = sum(char in _TYPOGRAPHY for char in run)
    return small or (len(run) <= 3 and marks >= 1 and all(char in _TYPOGRAPHY or char in _LETTERS for char in run))


def _score(text: str, encoding: str) -> float:
    return _score_latin(text) if encoding == "cp1252" else _score_hanzi(text)


def _by_score(data: bytes, is_column: Callable[[str], bool]) -> Decoded:
    strict = {name: data.decode(name) for name in CANDIDATES if _decodes(data, name)}
    # A few broken bytes must not turn a Chinese file into a Western one, which knows nearly every byte.
    texts = {name: data.decode(name, errors="replace") for name in CANDIDATES}
    by_header = [name for name, text in texts.items() if _names_columns(text, is_column)]
    if len(by_header) == 1:
        return _replacing(data, by_header[0])
    scores = {name: _score(text, name) for name, text in texts.items()}
    if not strict or max(scores[name] for name in strict) < SURE <= max(scores.values()):
        return _replacing(data, max(CANDIDATES, key=scores.__getitem__))
    if len(strict) == 1 and scores[next(iter(strict))] >= SURE:
        return _replacing(data, next(iter(strict)))
    best, other = sorted(strict if len(strict) > 1 else texts, key=lambda name: -scores[name])[:2]
    line, readings = _first_difference({name: texts[name] for name in (best, other)})
    if scores[best] >= SURE and scores[best] - scores[other] >= LEAD:
        return Decoded(texts[best], best, runner_up=(other, readings[0][1], readings[1][1]))
    return replace(_replacing(data, best), readings=readings, doubt_line=line)


def _names_columns(text: str, is_column: Callable[[str], bool]) -> bool:
    """Tell whether the first line holds a column name of ours that is not plain ASCII."""
    header = next((line for line in re.split(r"[\r\n]+", text) if line.strip()), "")
    cells = (cell.strip(' "\t') for cell in re.split(r"[,;\t]", header))
    return any(not cell.isascii() and is_column(cell) for cell in cells)


def _first_difference(texts: dict[str, str]) -> tuple[int, tuple[tuple[str, str], ...]]:
    """Find the first line that the texts read differently."""
    for number, lines in enumerate(itertools.zip_longest(*(text.split("\n") for text in texts.values())), 1):
        shown = [line or "" for line in lines]
        if len(set(shown)) > 1:
            start = _first_high(shown[0])
            cut = [line[max(0, start - 12) : start + 16].strip() for line in shown]
            return number, tuple(zip(texts, cut, strict=True))
    return 1, tuple((name, "") for name in texts)


def _first_high(line: str) -> int:
    return next((index for index, char in enumerate(line) if char > "\x7f"), len(line))
