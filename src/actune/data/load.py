"""Rows for those who use them: read, checked, refused if there are errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from actune.data.check import check_rows
from actune.data.report import finding_lines
from actune.data.rows import Row
from actune.data.table import read_table
from actune.errors import UserError, either


def load_rows(files: Sequence[Path], encoding: str | None = None) -> list[Row]:
    """Read tables and check them.

    Args:
        files: Tables, read in this order.
        encoding: Encoding of the text files; None to find it out.

    Returns:
        The rows, choice rows among them.

    Raises:
        UserError: The tables have errors; the message holds all of them (exit code 1). Or there is no file, or
            `encoding` is not known (exit code 2).
    """
    if not files:
        raise no_files()
    tables = [read_table(Path(file), encoding) for file in files]
    errors = check_rows(tables).errors
    if errors:
        text = "\n".join(line for finding in errors for line in finding_lines(finding))
        raise UserError(
            either(f"{len(errors)} errors in the data", f"数据中有 {len(errors)} 个错误"),
            "\n" + text,
            either("data without errors", "没有错误的数据"),
            either("mend them; `actune check` shows this list again", "请改正;用 `actune check` 可再次查看"),
            exit_code=1,
        )
    return [row for table in tables for row in table.rows]


def no_files() -> UserError:
    """Give the error of a command that got no table."""
    return UserError(
        either("data files", "数据文件"),
        either("none", "没有"),
        either("one or more tables (.csv, .tsv, .xlsx, .jsonl)", "一个或多个表格(.csv、.tsv、.xlsx、.jsonl)"),
        either("name them on the command line", "请在命令行写上文件名"),
    )
