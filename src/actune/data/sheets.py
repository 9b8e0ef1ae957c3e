"""Read the sheets of an .xlsx file."""

from __future__ import annotations

import io
import warnings
import zipfile
import zlib
from typing import TYPE_CHECKING

from actune.data.cells import Table, add_row, read_header, report_no_rows
from actune.data.columns import is_column
from actune.data.report import clip
from actune.errors import either

if TYPE_CHECKING:
    from openpyxl.workbook import Workbook
    from openpyxl.worksheet.worksheet import Worksheet

# What openpyxl lets through from the layers below when a file is damaged.
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    SyntaxError,  # what both xml.etree and lxml, which openpyxl prefers if it is there, raise for broken XML
    OSError,
    EOFError,
    KeyError,
    IndexError,
    ValueError,
    TypeError,
    AttributeError,
    NotImplementedError,
    RuntimeError,
)


def read_sheets(data: bytes, table: Table) -> None:
    """Read every sheet whose first row names at least one of our columns; the others get a note.

    Args:
        data: The file.
        table: Where rows, findings and notes go.
    """
    book = _open(data, table)
    if book is None:
        return
    sheets = [(sheet, _cells(sheet)) for sheet in book.worksheets]
    filled = [(sheet, rows) for sheet, rows in sheets if rows]
    if not filled:
        got, wanted = (
            either("no filled cell in any sheet", "所有工作表都是空的"),
            either("at least one row", "至少一行数据"),
        )
        return table.error("empty-file", 0, "", got, wanted, either("fill it in", "请填写内容"))
    ours = [pair for pair in filled if any(is_column(text) for text in pair[1][0][1])]
    for sheet, rows in ours or filled[:1]:
        _read_sheet(sheet, rows, table)
    if ours:
        for sheet, _ in filled:
            if all(sheet is not known for known, _ in ours):
                note = either(
                    f"ignored sheet {sheet.title}: no column of ours", f"忽略工作表 {sheet.title}:没有所需的列"
                )
                table.notes.append(f"{table.file}: {note}")
    return None


def _open(data: bytes, table: Table) -> Workbook | None:
    import openpyxl
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        with warnings.catch_warnings():
            # It warns of styles and extensions it does not know; they hold no cells.
            warnings.simplefilter("ignore")
            return openpyxl.load_workbook(io.BytesIO(data), data_only=True)
    except (*_BROKEN, InvalidFileException) as error:
        got = either(f"not a readable .xlsx: {error}", f"无法读取的 .xlsx:{error}")
        fix = either(
            "open it in a spreadsheet program and save it again as .xlsx", "请用表格软件打开并重新另存为 .xlsx"
        )
        table.error("not-a-table", 0, "", clip(got, 160), either("a table", "表格"), fix)
        return None


def _cells(sheet: Worksheet) -> list[tuple[int, tuple[str, ...]]]:
    """Give the rows that are not blank as texts, with their numbers."""
    rows = enumerate(sheet.iter_rows(values_only=True), 1)
    texts = ((number, tuple(_text(value) for value in row)) for number, row in rows)
    return [(number, row) for number, row in texts if any(text.strip() for text in row)]


def _text(value: object) -> str:
    match value:
        case None:
            return ""
        case str():
            # Excel spells a carriage return inside a cell so.
            return value.replace("_x000D_", "").replace("\r\n", "\n").replace("\r", "\n")
        case float() if value.is_integer():
            return str(int(value))
        case _:
            return str(value)


def _read_sheet(sheet: Worksheet, rows: list[tuple[int, tuple[str, ...]]], table: Table) -> None:
    title = sheet.title
    first, header = rows[0]
    places = read_header(header, first, title, table)
    _report_merged(sheet, first, set(places.values()), table)
    if len(rows) == 1:
        report_no_rows(table, title, first)
    for number, cells in rows[1:]:
        for name, index in places.items():
            if cells[index] in ("#N/A", "#REF!", "#NAME?", "#VALUE!", "#DIV/0!", "#NULL!", "#NUM!"):
                wanted, fix = either("text", "文本"), either("replace the formula by its text", "请用文本代替公式")
                table.error("cell-error", number, table.column(name, title), cells[index], wanted, fix, title)
        if any(cells[index].strip() for index in places.values()):
            add_row(cells, places, number, title, table)


def _report_merged(sheet: Worksheet, header: int, ours: set[int], table: Table) -> None:
    for area in sheet.merged_cells.ranges:
        columns = range(area.min_col - 1, area.max_col)
        if area.max_row > header and ours.intersection(columns):
            got = either(f"merged cells {area.coord}", f"合并的单元格 {area.coord}")
            fix = either("unmerge them and fill in every row", "请取消合并并逐行填写")
            table.error(
                "merged-cells", area.min_row, "", got, either("one cell a row", "每行各一个单元格"), fix, sheet.title
            )
