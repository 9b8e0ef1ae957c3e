"""Read a table: .csv, .tsv, .xlsx or .jsonl in, rows out, with a finding for whatever is not a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from actune.data import delimited
from actune.data.cells import Table, add_row, read_header, report_no_rows
from actune.data.columns import is_column, wanted_columns
from actune.data.encoding import Decoded, decode
from actune.data.jsonl import read_jsonl
from actune.data.report import clip
from actune.data.sheets import read_sheets
from actune.errors import either

__all__ = ["SUFFIXES", "Table", "read_table"]

SUFFIXES = (".csv", ".tsv", ".xlsx", ".jsonl")
ZIP = "zip"
_MAGIC = (
    (b"PK\x03\x04", ZIP),
    (b"\x89PNG", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF8", "GIF"),
    (b"RIFF", "RIFF"),
    (b"%PDF", "PDF"),
    (b"\xd0\xcf\x11\xe0", ".xls/.doc (old Office)"),
    (b"\x1f\x8b", "gzip"),
    (b"7z\xbc\xaf", "7z"),
    (b"\x7fELF", "program"),
)


def read_table(path: Path, encoding: str | None = None) -> Table:
    """Read a table.

    Args:
        path: A .csv, .tsv, .xlsx or .jsonl file.
        encoding: Encoding of a text file; None to find it out.

    Returns:
        The rows that could be read, and findings for the rest. What the rows say is judged by `check.check_rows`.

    Raises:
        UserError: `encoding` is not known.
    """
    table = Table(file=str(path))
    if (data := _read_bytes(path, table)) is None:
        return table
    suffix = path.suffix.lower()
    kind = _other_format(data)
    if suffix == ".xlsx" and kind in ("", ZIP):
        table.encoding = "xlsx"
        read_sheets(data, table)
    elif kind:
        _not_a_table(table, kind)
    else:
        decoded = decode(data, encoding, is_column)
        table.encoding = decoded.encoding
        _report_encoding(decoded, table)
        if suffix == ".jsonl":
            read_jsonl(decoded.text, table)
        else:
            _read_delimited(decoded.text, suffix, table)
    return table


def _read_bytes(path: Path, table: Table) -> bytes | None:
    fix = either("check the path", "请检查路径")
    wanted = either(f"a file {', '.join(SUFFIXES)}", f"{'、'.join(SUFFIXES)} 文件")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        table.error("missing-file", 0, "", either("no such file", "文件不存在"), wanted, fix)
    except IsADirectoryError:
        table.error("not-a-table", 0, "", either("a folder", "是文件夹"), wanted, fix)
    # ValueError: a path with a NUL in it.
    except (OSError, ValueError) as error:
        table.error("unreadable-file", 0, "", str(error), wanted, fix)
    else:
        if path.suffix.lower() not in SUFFIXES:
            got = either(f"a file named {path.suffix or path.name!r}", f"文件名后缀 {path.suffix or path.name!r}")
            table.error("not-a-table", 0, "", got, wanted, either("save it as .csv or .xlsx", "请另存为 .csv 或 .xlsx"))
        elif not data.strip(b" \t\r\n\xef\xbb\xbf\xff\xfe\x00"):
            table.error(
                "empty-file",
                0,
                "",
                either("an empty file", "空文件"),
                wanted_columns(),
                either("fill it in", "请填写内容"),
            )
        else:
            return data
    return None


def _other_format(data: bytes) -> str:
    """Say which well-known format that holds no table the bytes have; empty if none."""
    for mark, kind in _MAGIC:
        if data.startswith(mark):
            return kind
    controls = sum(byte < 32 and byte not in b"\0\t\n\r" for byte in data[:4096])
    return either("unknown, not text", "未知的非文本") if controls * 20 > len(data[:4096]) else ""


def _not_a_table(table: Table, kind: str) -> None:
    got = either(f"not a table: a file of the kind {kind}", f"不是表格,而是 {kind} 文件")
    fix = either(
        "open it in its program and save it as .xlsx or .csv (no password)",
        "请用原程序打开,另存为 .xlsx 或 .csv(不加密码)",
    )
    table.error("not-a-table", 0, "", got, either("a table", "表格"), fix)


def _report_encoding(decoded: Decoded, table: Table) -> None:
    name = decoded.encoding
    for line in decoded.bad_lines:
        got = either(f"bytes that {name} does not know", f"{name} 中不存在的字节")
        fix = either(
            "save the file as UTF-8, or name its encoding with --encoding", "请另存为 UTF-8,或用 --encoding 指定编码"
        )
        table.error("undecodable", line, "", got, either(f"text in {name}", f"{name} 文本"), fix)
    if decoded.readings:
        got = "; ".join(f"{encoding}: “{clip(text)}”" for encoding, text in decoded.readings)
        names = either(" or ", " 或 ").join(f"--encoding {encoding}" for encoding, _ in decoded.readings)
        wanted = either("an encoding beyond doubt", "能够确定的编码")
        fix = either(
            f"say which reading is right: {names}; or save as UTF-8", f"请指明哪种读法正确:{names};或另存为 UTF-8"
        )
        table.error("doubtful-encoding", decoded.doubt_line, "", got, wanted, fix)
    if decoded.runner_up:
        other, ours, theirs = decoded.runner_up
        table.notes.append(
            either(
                f"{table.file}: read as {name} (“{clip(ours)}”), not {other} (“{clip(theirs)}”); see --encoding",
                f"{table.file}:按 {name} 读取(“{clip(ours)}”),而非 {other}(“{clip(theirs)}”);可用 --encoding 指定",
            )
        )


def _read_delimited(text: str, suffix: str, table: Table) -> None:
    delimiter = "\t" if suffix == ".tsv" else _delimiter(text)
    # A byte order mark that the named encoding did not take off would hide the first column's name.
    read = delimited.read_records(text.removeprefix("\ufeff"), delimiter)
    records = [each for each in read if each.trouble or any(cell.strip() for cell in each.cells)]
    for record in records:
        if record.trouble:
            _report_quote(record, table)
    if not records or (records[0].trouble and len(records) == 1):
        return report_no_rows(table, "", 1)
    header, places = records[0], read_header(records[0].cells, records[0].line, "", table)
    for record in records[1:]:
        if not record.trouble and _is_whole(record, header.cells, table):
            add_row(record.cells, places, record.line, "", table)
    if len(records) == 1:
        report_no_rows(table, "", header.line)
    return None


def _delimiter(text: str) -> str:
    """Give the comma, unless the first row names our columns only when split at the semicolon or the tab."""
    header = next((line for line in text.removeprefix("\ufeff").splitlines() if line.strip()), "")
    count = {mark: sum(is_column(cell.strip(' "')) for cell in header.split(mark)) for mark in ",;\t"}
    return max(",;\t", key=lambda mark: count[mark])


def _report_quote(record: delimited.Record, table: Table) -> None:
    got = f"{clip(record.detail)}"
    if record.trouble == "open-quote":
        wanted = either('a closing quote (") for the one opened here', '与此处开引号配对的右引号(")')
        fix = either('close it; write a quote inside the cell as ""', '请补上右引号;单元格内部的引号写作 ""')
        return table.error("open-quote", record.line, "", got, wanted, fix)
    wanted = either("a comma or the line's end after the closing quote", "右引号之后应为逗号或行尾")
    fix = either('write a quote inside the cell as ""', '单元格内部的引号写作 ""')
    return table.error("stray-quote", record.line, "", got, wanted, fix)


def _is_whole(record: delimited.Record, header: Sequence[str], table: Table) -> bool:
    cells = record.cells
    if any("\0" in cell for cell in cells):
        return True
    # Spreadsheets pad rows with empty cells on the right; that loses nothing.
    if len(cells) < len(header) or any(cell.strip() for cell in cells[len(header) :]):
        got = either(
            f"{len(cells)} cells: {clip(' | '.join(cells))}", f"{len(cells)} 个单元格:{clip(' | '.join(cells))}"
        )
        wanted = either(f"{len(header)} cells, as in the first row", f"{len(header)} 个单元格,与首行一致")
        fix = either(
            "quote cells that hold commas or line breaks; add missing cells",
            "含逗号或换行的单元格请加引号;补上缺少的单元格",
        )
        table.error("ragged-row", record.line, "", got, wanted, fix)
        return False
    return True
