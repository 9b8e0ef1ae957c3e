"""Warnings: rows that are well formed, but will teach something odd."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from actune.data.cells import Table
from actune.data.near import nearest
from actune.data.report import Finding, clip
from actune.data.rows import Row
from actune.errors import either
from actune.script.events import Act, Say
from actune.script.parser import parse

# With fewer rows than this a share says nothing.
MIN_ROWS = 4
# Without examples of keeping still, a tuned model acts on everything.
MIN_IDLE = 0.1
# What people write in place of <&name&>. Round brackets are left alone: they stand in many good sentences.
_BRACKETED = re.compile(
    r"[<＜〈《\[［【{｛]{1,2}/?([^<>＜＞〈〉《》\[\]［］【】{}｛｝\n&]{1,80})[>＞〉》\]］】}｝]{1,2}"
)
# So like a listed name that nothing else is meant.
LIKE = 0.8


def warnings_of(tables: Sequence[Table]) -> Iterator[Finding]:
    """Find equal rows, answers that contradict each other, and one-sided tables (all tables taken together)."""
    yield from _repeats(tables)
    yield from _brackets(tables)
    rows = [row for table in tables for row in table.rows if row.script]
    if len(rows) < MIN_ROWS:
        return
    scripts = [parse(row.script) for row in rows]
    acting = [events for events in scripts if any(isinstance(event, Act) for event in events)]
    file, idle = rows[0].file, len(rows) - len(acting)
    if idle < MIN_IDLE * len(rows):
        got = either(f"{idle} of {len(rows)} rows without any action", f"{len(rows)} 行中只有 {idle} 行不含动作")
        wanted = either("at least one in ten", "至少十分之一")
        fix = either("add questions that no listed action fits", "请添加列表动作都不适用的问题")
        yield Finding("few-idle-rows", "warning", file, 0, "", got, wanted, fix)
    if len(acting) >= MIN_ROWS and all(isinstance(events[0], Act) for events in acting):
        got = either(
            f"all {len(acting)} acting answers act before they speak",
            f"全部 {len(acting)} 个带动作的回答都先动作后说话",
        )
        wanted = either("both orders", "两种顺序都有")
        fix = either("add answers that speak first, where that is natural", "请添加自然地先说话的回答")
        yield Finding("acts-first", "warning", file, 0, "", got, wanted, fix)


def _brackets(tables: Sequence[Table]) -> Iterator[Finding]:
    """Find listed names in other brackets: they are words, and nothing would be done."""
    for table in tables:
        for row in table.rows:
            if not _BRACKETED.search(row.script):
                continue
            words = [event.text for event in parse(row.script, row.actions) if isinstance(event, Say)]
            for found in (found for text in words for found in _BRACKETED.finditer(text)):
                name = nearest(found[1].strip(" /"), row.actions, LIKE)
                if name is not None:
                    got = either(f"“{clip(found[0])}” is read as words", f"“{clip(found[0])}”会被当作文字")
                    wanted = either("an action in <& and &>, or no brackets", "动作写在 <& 和 &> 中, 或不加括号")
                    fix = either(f"if it shall be done, write <&{name}&>", f"若要执行, 请写成 <&{name}&>")
                    column = table.column("answer", row.sheet)
                    yield Finding(
                        "bracketed-action", "warning", row.file, row.line, column, got, wanted, fix, row.sheet
                    )


def _repeats(tables: Sequence[Table]) -> Iterator[Finding]:
    seen: dict[tuple[object, ...], Row] = {}
    for table in tables:
        for row in table.rows:
            if not row.script or not row.question:
                continue
            # Another list may well ask for another answer, and the order of a list says nothing.
            key = (row.question, frozenset(row.actions), row.system, row.history)
            first = seen.setdefault(key, row)
            if first is not row:
                yield _repeat(first, row, table)


def _repeat(first: Row, row: Row, table: Table) -> Finding:
    place = f"{first.file}:{first.line}"
    if first.script == row.script:
        got = either(f"the same row as {place}", f"与 {place} 相同的行")
        wanted, fix = either("each row once", "每行只出现一次"), either("delete one of them", "请删除其中一行")
        return Finding("equal-rows", "warning", row.file, row.line, "", got, wanted, fix, row.sheet)
    got = either(
        f"“{clip(row.question)}” has another answer at {place}, with the same list",
        f"“{clip(row.question)}”在 {place} 处列表相同而回答不同",
    )
    wanted, fix = (
        either("one answer", "一个回答"),
        either("keep the better one, if that was not meant", "若非有意,请保留较好的一个"),
    )
    column = table.column("question", row.sheet)
    return Finding("other-answer", "warning", row.file, row.line, column, got, wanted, fix, row.sheet)
