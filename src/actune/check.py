"""``actune check``."""

from __future__ import annotations

import json as json_module
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from actune.data.check import check_rows
from actune.data.load import no_files
from actune.data.report import Finding, Report, finding_lines, summary_lines
from actune.data.rows import Row
from actune.data.table import read_table
from actune.errors import either
from actune.terminal import survive


def check(
    files: list[Path],
    *,
    encoding: str | None = None,
    strict: bool = False,
    json: bool = False,
    base: str | None = None,
) -> int:
    """Check tables of dialogues and show every problem at once.

    Args:
        files: Tables: .csv, .tsv, .xlsx or .jsonl.
        encoding: Encoding of text files; found out by itself otherwise.
        strict: Count warnings as errors.
        json: Print the report as JSON.
        base: A base model; the summary then shows how long the rows are in its tokens.

    Returns:
        0 if clean, 1 if there are errors (with `strict`: or warnings).

    Raises:
        UserError: Wrong use (exit code 2): no file, an unknown encoding, no such base.
    """
    survive()
    if not files:
        raise no_files()
    tables = [read_table(Path(file), encoding) for file in files]
    report = check_rows(tables)
    if base is not None:
        rows = [row for table in tables for row in table.rows if row.script]
        report = replace(report, summary=replace(report.summary, tokens=_token_lengths(rows, base)))
    code = report.exit_code(strict)
    if json:
        # ASCII only: a terminal of any encoding can show it, and every reader of JSON gives the same text back.
        print(json_module.dumps(report.to_json() | {"exit_code": code}, indent=2))
    else:
        _show(report, code)
    return code


def _show(report: Report, code: int) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)

    def say(line: str, style: str = "") -> None:
        console.print(Text(line, style=style))

    def show(title: str, findings: Sequence[Finding], style: str) -> None:
        if findings:
            say(f"{title} ({len(findings)})", f"bold {style}")
        for finding in findings:
            first, *others = finding_lines(finding)
            say(f"  {first}", style)
            for line in others:
                say(f"  {line}")

    show(either("Errors", "错误"), report.errors, "red")
    show(either("Warnings", "警告"), report.warnings, "yellow")
    for line in (*report.notes, *summary_lines(report.summary)):
        say(line, "dim")
    counts = either(
        f"{len(report.errors)} errors, {len(report.warnings)} warnings",
        f"{len(report.errors)} 个错误,{len(report.warnings)} 个警告",
    )
    say(counts, "bold red" if code else "bold green")


def _token_lengths(rows: Sequence[Row], base: str) -> dict[str, int]:
    """Measure prompt and answer of each row.

    Args:
        rows: Training rows.
        base: Name of the base.

    Returns:
        min, median and max, in tokens.
    """
    if not rows:
        return {}
    # Only here: these rooms bring transformers with them.
    from actune.base.load import load_tokenizer
    from actune.base.source import resolve
    from actune.prompt import PromptFormat, answer_ids, render_ids

    tokenizer = load_tokenizer(resolve(base).path)
    fmt = PromptFormat.for_rows(rows, tokenizer)
    lengths = [
        len(render_ids(tokenizer, fmt, row.question, row.actions, row.history, row.system))
        + len(answer_ids(tokenizer, fmt, row.script))
        for row in rows
    ]
    return {"min": min(lengths), "median": round(statistics.median(lengths)), "max": max(lengths)}
