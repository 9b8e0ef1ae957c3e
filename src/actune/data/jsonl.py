"""Read .jsonl: one row, one JSON object, one line."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from actune.data.cells import Table, report_nul, split_cell
from actune.data.columns import NAMES, field_of, wanted_columns
from actune.data.report import clip
from actune.data.rows import Row, Turn
from actune.errors import either

_OTHERS = ("history", "expected", "ordered", "describe", "id", "source", "lang")
_ROLES: dict[str, Literal["user", "assistant"]] = {
    "user": "user",
    "usr": "user",
    "human": "user",
    "assistant": "assistant",
    "sys": "assistant",
    "bot": "assistant",
}


class _WrongTypeError(Exception):
    """A value of a type that its key cannot hold."""

    def __init__(self, key: str, got: object, wanted: str) -> None:
        self.key, self.got, self.wanted = key, got, wanted


def read_jsonl(text: str, table: Table) -> None:
    """Read all lines that are not blank.

    Args:
        text: The file.
        table: Where rows, findings and notes go.
    """
    ignored: dict[str, None] = {}
    # Not splitlines(): a JSON string may hold U+2028 as it is.
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text.removeprefix("\ufeff")), 1):
        if line.strip() and (pairs := _parse(line, number, table)) is not None:
            _read_object(pairs, number, table, ignored)
    if ignored:
        shown = clip(", ".join(ignored), 120)
        table.notes.append(either(f"{table.file}: ignored keys: {shown}", f"{table.file}:忽略的键:{shown}"))


def _parse(line: str, number: int, table: Table) -> list[tuple[str, Any]] | None:
    wanted = either("one JSON object on the line", "每行一个 JSON 对象")
    try:
        data = json.loads(line, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        fix = either("mend the JSON (quotes, commas, brackets)", "请改正 JSON(引号、逗号、括号)")
        table.error("not-json", number, "", f"{error}: {clip(line)}", wanted, fix)
        return None
    if isinstance(data, _Pairs):
        return list(data)
    fix = either("write {...} with the keys actions, question, answer", "请写成带 actions、question、answer 键的 {...}")
    table.error("not-json", number, "", clip(line), wanted, fix)
    return None


class _Pairs(list[tuple[str, Any]]):
    """An object with its keys in order, doubled ones included."""


def _read_object(pairs: list[tuple[str, Any]], number: int, table: Table, ignored: dict[str, None]) -> None:
    values: dict[str, Any] = {}
    header: dict[str, str] = {}
    for key, value in pairs:
        name = field_of(key) or (key if key in _OTHERS else None)
        if name is None:
            ignored[key] = None
        elif name in values:
            got = either(f"keys {header[name]} and {key} mean the same", f"键 {header[name]} 与 {key} 含义相同")
            fix, wanted = either("delete one of them", "请删除其中一个"), either("each key once", "每个键只出现一次")
            table.error("doubled-column", number, key, got, wanted, fix)
        else:
            values[name], header[name] = value, key
    table.headers[""] = table.headers.get("", {}) | {name: key for name, key in header.items() if name in NAMES}
    missing = [name for name in ("question", "answer") if name not in values]
    if "expected" in values and "answer" in missing:
        missing.remove("answer")
    for name in missing:
        shown = clip(", ".join(key for key, _ in pairs), 120)
        got, fix = either(f"keys: {shown}", f"现有键:{shown}"), either(f"add the key {name!r}", f"请补上键 {name!r}")
        table.error("missing-column", number, name, got, wanted_columns(), fix)
    if not missing:
        _add(values, number, table)


def _add(values: dict[str, Any], number: int, table: Table) -> None:
    try:
        row = Row(
            actions=_names(values, "actions"),
            question=_text(values, "question"),
            script=_text(values, "answer"),
            system=_text(values, "system"),
            history=_history(values.get("history") or []),
            expected=_names(values, "expected") if values.get("expected") is not None else None,
            ordered=bool(values.get("ordered")),
            describe=_describe(values.get("describe")),
            id=str(values.get("id") or ""),
            source=str(values.get("source") or ""),
            lang=str(values.get("lang") or ""),
            file=table.file,
            line=number,
        )
    except _WrongTypeError as error:
        fix = either("write the value in the wanted form", "请按所需形式书写")
        shown = clip(json.dumps(_plain(error.got), ensure_ascii=False))
        return table.error("wrong-type", number, error.key, shown, error.wanted, fix)
    for name, text in (("question", row.question), ("answer", row.script), ("system", row.system)):
        if "\0" in text:
            report_nul(table, number, name, text)
    # An empty list in brackets is said on purpose; an empty text or no key is not.
    if not row.actions and not isinstance(values.get("actions"), list) and not _says_none(values.get("actions")):
        table.bare.add(len(table.rows))
    table.rows.append(row)
    return None


def _says_none(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _text(values: dict[str, Any], key: str) -> str:
    value = values.get(key)
    if value is None:
        return ""
    if isinstance(value, str):
        return value.replace("\r\n", "\n").replace("\r", "\n").strip()
    raise _WrongTypeError(key, value, either("text in quotes", "带引号的文本"))


def _names(values: dict[str, Any], key: str) -> tuple[str, ...]:
    value = values.get(key)
    if value is None:
        return ()
    if isinstance(value, str):
        return split_cell(value)
    if isinstance(value, list) and not isinstance(value, _Pairs) and all(isinstance(name, str) for name in value):
        return tuple(value)
    raise _WrongTypeError(
        key, value, either("a list of texts, or one text with 、 between names", "文本列表,或以 、 分隔的文本")
    )


def _history(value: object) -> tuple[Turn, ...]:
    wanted = either(
        'turns [["user", "..."], ["assistant", "..."]] or [{"role": "user", "content": "..."}]',
        '轮次 [["user", "..."], ["assistant", "..."]] 或 [{"role": "user", "content": "..."}]',
    )
    if not isinstance(value, list) or isinstance(value, _Pairs):
        raise _WrongTypeError("history", value, wanted)
    turns = []
    for turn in value:
        pair = turn
        if isinstance(turn, _Pairs):
            keys = dict(turn)
            pair = [keys.get("role"), keys.get("content", keys.get("text"))]
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise _WrongTypeError("history", turn, wanted)
        if pair[0] not in _ROLES:
            raise _WrongTypeError("history", turn, wanted)
        turns.append(Turn(_ROLES[pair[0]], pair[1]))
    return tuple(turns)


def _describe(value: object) -> dict[str, str]:
    if value is None:
        return {}
    if isinstance(value, _Pairs):
        return {name: text if isinstance(text, str) else json.dumps(_plain(text)) for name, text in value}
    raise _WrongTypeError("describe", value, either('{"name": "what it does"}', '{"动作名": "说明"}'))


def _plain(value: object) -> object:
    """Give a value back its objects, to show it."""
    if isinstance(value, _Pairs):
        return {key: _plain(each) for key, each in value}
    return [_plain(each) for each in value] if isinstance(value, list) else value
