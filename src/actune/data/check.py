"""Judge what rows say: every problem of all tables in one report."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from actune.data.cells import Table
from actune.data.near import nearest
from actune.data.report import Finding, Report, Summary, clip, in_order
from actune.data.rows import Row
from actune.data.warn import warnings_of
from actune.errors import either
from actune.script.catalogue import CLOSE, OPEN, name_problem
from actune.script.events import Act, Event, Fault, Say
from actune.script.parser import parse

__all__ = ["Finding", "Report", "check_rows"]

# A tag's mark in other widths, with blanks inside, or as HTML spells it; the right marks are taken out by hand.
_LOOKALIKE = re.compile(
    r"[<＜﹤〈][ \t\u00a0\u3000]{0,2}[&＆﹠]|[&＆﹠][ \t\u00a0\u3000]{0,2}[>＞﹥〉]|&lt;\s?&(?:amp;)?|&(?:amp;)?\s?&gt;"
)
_SEPARATORS = re.compile(r"[,，;；|\n]")

Add = Callable[[str, str, str, str, str], None]
"""Adds an error: code, field, got, wanted, fix."""


def check_rows(tables: Sequence[Table]) -> Report:
    """Check tables that were read.

    Args:
        tables: From `table.read_table`; their own findings are part of the report.

    Returns:
        All findings in the order of the files and lines, and the summary.
    """
    findings: list[Finding] = []
    for table in tables:
        findings += table.findings
        for index, row in enumerate(table.rows):
            findings += _check_row(row, index in table.bare, table)
    findings += warnings_of(tables)
    notes = tuple(note for table in tables for note in table.notes)
    return Report(in_order(findings, [table.file for table in tables]), _summary(tables), notes)


def _check_row(row: Row, bare: bool, table: Table) -> list[Finding]:
    findings: list[Finding] = []

    def add(code: str, field: str, got: str, wanted: str, fix: str) -> None:
        column = table.column(field, row.sheet)
        findings.append(Finding(code, "error", row.file, row.line, column, got, wanted, fix, row.sheet))

    columns = table.headers.get(row.sheet, {})
    choice = row.expected is not None and not row.script
    if not row.question and "question" in columns:
        _add_empty("empty-question", "question", add)
    if not row.script and not choice and "answer" in columns:
        _add_empty("empty-answer", "answer", add)
    _check_characters(row, add)
    _check_names(row, "actions", row.actions, add)
    events = parse(row.script, row.actions)
    _check_list(row, bare, events, add)
    _check_script(row, events, "answer", add)
    for turn in row.history:
        if turn.role == "assistant":
            _check_script(row, parse(turn.text), "history", add)
    if row.expected is not None:
        # A name may stand twice here: some answers want an action done twice.
        for name in dict.fromkeys(row.expected):
            if name not in row.actions:
                _add_unlisted(name, row.actions, "expected", add)
    return findings


def _add_empty(code: str, field: str, add: Add) -> None:
    got, wanted = either("an empty cell", "空单元格"), either("text", "文本")
    add(code, field, got, wanted, either("fill it in, or delete the row", "请填写,或删除该行"))


def _check_characters(row: Row, add: Add) -> None:
    for field, text in (("question", row.question), ("answer", row.script), ("system", row.system)):
        if any(unicodedata.category(char) == "Cs" for char in text):
            wanted = either("characters that can be encoded", "可编码的字符")
            add("undecodable", field, clip(text), wanted, either("delete the half character", "请删除不完整的字符"))


def _check_names(row: Row, field: str, names: Sequence[str], add: Add) -> None:
    problems = {
        "empty": either("two separators (、) with nothing between", "两个顿号之间没有内容"),
        "blanks": either("blanks before or after the name", "名称前后有空白"),
        "tag": either("<& or &> in the name", "名称含有 <& 或 &>"),
        "control": either("a line break or control character in the name", "名称含有换行或控制字符"),
    }
    wanted = either("names with 、 between them", "以 、 分隔的动作名")
    for name in dict.fromkeys(names):
        if problem := name_problem(name):
            fix = either("write the plain name; between names write 、", "只写动作名;名称之间用 、 分隔")
            add(f"name-{problem}", field, f"“{clip(name)}”: {problems[problem]}", wanted, fix)
    for name, count in Counter(names).items():
        if count > 1 and name:
            got = either(f"“{clip(name)}” stands {count} times", f"“{clip(name)}”出现 {count} 次")
            wanted_once = either("each name once", "每个名称只出现一次")
            add("name-twice", field, got, wanted_once, either("delete the others", "请删除多余的"))


def _check_list(row: Row, bare: bool, events: Sequence[Event], add: Add) -> None:
    acts = [event for event in events if _is_tag(event)]
    if not row.actions and acts:
        got = either("no list, although the answer acts", "没有动作列表,但回答中有动作")
        wanted = either("the list of actions on offer", "可选动作的列表")
        add(
            "no-list",
            "actions",
            got,
            wanted,
            either("list at least the actions of the answer", "请至少列出回答所用的动作"),
        )
    elif bare and row.expected is None:
        got, wanted = either("an empty list", "空列表"), either("a list, or a word for none", "动作列表,或表示没有的词")
        add(
            "empty-list",
            "actions",
            got,
            wanted,
            either("write none (or -) if no action is on offer", "若没有可选动作,请写 无(或 -)"),
        )


def _is_tag(event: Event) -> bool:
    return isinstance(event, Act) or (isinstance(event, Fault) and event.kind == "unlisted")


def _check_script(row: Row, events: Sequence[Event], field: str, add: Add) -> None:
    for event in events:
        if isinstance(event, Say):
            _check_words(event.text, field, add)
        elif isinstance(event, Fault):
            _check_fault(row, event, field, add)


def _check_words(text: str, field: str, add: Add) -> None:
    if _check_lookalikes(text, field, add) or CLOSE not in text:
        return
    wanted = either("<& before the name", "动作名之前有 <&")
    add("unopened-tag", field, clip(text.strip()), wanted, either("write <&name&>", "请写成 <&动作名&>"))


def _check_lookalikes(text: str, field: str, add: Add) -> bool:
    marks = [mark for mark in _LOOKALIKE.findall(text) if mark not in (OPEN, CLOSE)]
    if marks:
        shown = either(" and ", " 和 ").join(f"“{mark}”" for mark in dict.fromkeys(marks))
        got = either(f"{shown} in “{clip(text.strip())}”", f"“{clip(text.strip())}”中的 {shown}")
        wanted = either("half-width marks without blanks: <&name&>", "半角且无空格的标记:<&动作名&>")
        add("lookalike-tag", field, got, wanted, either("write <& and &>", "请写成 <& 和 &>"))
    return bool(marks)


def _check_fault(row: Row, fault: Fault, field: str, add: Add) -> None:
    inner = fault.raw.removeprefix(OPEN).removesuffix(CLOSE)
    if fault.kind == "unlisted":
        if row.actions:
            _add_unlisted(inner, row.actions, field, add)
        return
    if _check_lookalikes(fault.raw.removeprefix(OPEN), field, add):
        return
    wanted = "<&name&>" if field == "history" else either("<&name&> with a listed name", "<&动作名&>,名称须在列表中")
    fixes = {
        "unclosed": either("close the tag with &>", "请用 &> 结束标记"),
        "empty": either("write a name into the tag, or delete it", "请在标记中写上动作名,或删除"),
        "nested": either("close the first tag with &> before the next begins", "请先用 &> 结束前一个标记"),
        "name": either(
            "write the plain name, without blanks around it or line breaks", "只写动作名,前后无空白,不含换行"
        ),
    }
    add(f"{fault.kind}-tag", field, f"“{clip(fault.raw)}”", wanted, fixes[fault.kind])


def _add_unlisted(name: str, names: Sequence[str], field: str, add: Add) -> None:
    got = either(f"“{clip(name)}” is not on the list", f"“{clip(name)}”不在列表中")
    wanted = either(f"one of: {clip('、'.join(names), 120)}", f"其中之一:{clip('、'.join(names), 120)}")
    if any(name in (part.strip() for part in _SEPARATORS.split(listed)) for listed in names):
        fix = either("between names write 、 (not a comma)", "名称之间请用顿号 、(不是逗号)")
    elif near := nearest(name, names):
        fix = either(f"did you mean “{near}”?", f"是指“{near}”吗?")
    else:
        fix = either("add it to the list, or take the tag out", "请加入列表,或删去该标记")
    add("unlisted-tag" if field != "expected" else "unlisted-expected", field, got, wanted, fix)


def _names_used(row: Row) -> Iterator[str]:
    if row.script or row.expected is None:
        yield from (event.name for event in parse(row.script) if isinstance(event, Act))
    else:
        yield from row.expected


def _summary(tables: Sequence[Table]) -> Summary:
    rows = [row for table in tables for row in table.rows]
    choice = [row for row in rows if row.expected is not None and not row.script]
    uses = {"0": 0, "1": 0, "2": 0, "3+": 0}
    used: set[str] = set()
    for row in rows:
        names = list(_names_used(row))
        used.update(names)
        if row.script:
            uses[str(len(names)) if len(names) < 3 else "3+"] += 1
    listed = dict.fromkeys(name for row in rows for name in row.actions)
    return Summary(
        rows=len(rows),
        choice_rows=len(choice),
        actions=len(listed),
        uses=uses,
        never_used=tuple(name for name in listed if name not in used),
        encodings={table.file: table.encoding for table in tables if table.encoding},
    )
