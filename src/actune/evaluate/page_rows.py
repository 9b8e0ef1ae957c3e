"""The parts of the page that show single answers: what was confused, and every row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from actune.evaluate.confusion import confusion, is_right
from actune.evaluate.markup import both, choice, esc
from actune.script.events import Act, Event, Fault, Say
from actune.script.parser import parse

MOST_NAMES = 14


def confusion_section(report: Mapping[str, Any]) -> str:
    """Draw a matrix for each system: wanted actions in rows, chosen ones in columns."""
    systems = list(report["scores"])
    if not any(row["expected"] for row in report["rows"]):
        return ""
    options = "".join(f'<option value="m{place}">{esc(name)}</option>' for place, name in enumerate(systems))
    tables = "".join(_matrix(report["rows"], name, f"m{place}", place > 0) for place, name in enumerate(systems))
    hint = both(
        "Rows: wanted; columns: chosen. The actions that are missed or wrong most often; the rest are “others”.",
        "行: 应做的; 列: 所选的。列出最常漏掉或选错的动作, 其余归入“其他”。",
    )
    return (
        f"<section><h2>{both('Wanted and chosen', '应做与所选')}</h2>"
        f'<p><select id="matrices">{options}</select></p>{tables}<p class="soft small">{hint}</p></section>'
    )


def _matrix(rows: Sequence[Mapping[str, Any]], system: str, id: str, hidden: bool) -> str:
    pairs = confusion(rows, system)
    worst: Counter[str] = Counter()
    for (wanted, chosen), count in pairs.items():
        if wanted != chosen:
            worst.update({name: count for name in (wanted, chosen) if name})
    names = [name for name, _ in worst.most_common(MOST_NAMES)]
    folded: Counter[tuple[str | None, str | None]] = Counter()
    known = {*names, ""}
    for (wanted, chosen), count in pairs.items():
        folded[wanted if wanted in known else None, chosen if chosen in known else None] += count
    heads: list[str | None] = [*names, None, ""]
    top = "".join(f"<th>{_name(name)}</th>" for name in heads)
    corner = both("wanted \\ chosen", "应做 \\ 所选")
    lines = "".join(
        f'<tr><th class="row">{_name(wanted)}</th>{"".join(_count(wanted, chosen, folded) for chosen in heads)}</tr>'
        for wanted in heads
    )
    off = " hidden" if hidden else ""
    return f'<table class="matrix" id="{id}"{off}><tr><td class="corner">{corner}</td>{top}</tr>{lines}</table>'


def _name(name: str | None) -> str:
    return both("others", "其他") if name is None else esc(name) if name else both("(nothing)", "（无）")


def _count(wanted: str | None, chosen: str | None, pairs: Mapping[tuple[str | None, str | None], int]) -> str:
    count = pairs.get((wanted, chosen), 0)
    # Two actions among the others may be the same one or not.
    kind = "" if not count or wanted is None is chosen else "hit" if wanted == chosen else "miss"
    return f'<td class="{kind}">{count or ""}</td>'


def rows_section(report: Mapping[str, Any], language: str) -> str:
    """Show every row with filters."""
    rows, systems = report["rows"], list(report["scores"])
    legend = (
        f'<span><span class="tag hit">a</span> {both("wanted", "应做")}</span>'
        f'<span><span class="tag off">a</span> {both("not wanted", "不该做")}</span>'
        f'<span><span class="tag bad">a</span> {both("not on the list, or malformed", "不在列表中, 或格式错误")}</span>'
    )
    numbers = sources_of(rows)
    cases = "".join(_case(row, systems, numbers[row["source"]]) for row in rows)
    return (
        f"<section><h2>{both('Every row', '逐行')}</h2>{_filters(rows, systems, language)}"
        f'<div class="legend">{legend}</div>{cases}</section>'
    )


def _filters(rows: Sequence[Mapping[str, Any]], systems: Sequence[str], language: str) -> str:
    verdicts = [("", "all", "全部")]
    for place, name in enumerate(systems):
        verdicts += [(f"w{place}", f"{name} wrong", f"{name} 有误"), (f"r{place}", f"{name} right", f"{name} 正确")]
    seen = [("", "all", "全部"), ("new", "new", "新的"), ("trained", "trained on", "训练过")]
    sources = [("", "all", "全部"), *((f"s{place}", name, name) for name, place in sources_of(rows).items())]
    boxes = [
        _box("verdict", "answers", "回答", verdicts, language),
        _box("wanted", "actions wanted", "应做动作数", _values(str(len(row["expected"])) for row in rows), language),
        _box("source", "source", "来源", sources, language),
        _box("language", "language", "语言", _values(row["language"] for row in rows), language),
    ]
    if any(row["seen"] for row in rows):
        boxes.append(_box("seen", "training", "训练", seen, language))
    hint = {"en": "search questions and answers", "zh": "搜索问题与回答"}
    return (
        '<div class="filters">'
        f'<input id="text" type="search" placeholder="{hint[language]}" data-en="{hint["en"]}" data-zh="{hint["zh"]}">'
        f'{"".join(boxes)}<span id="count" class="soft"></span></div>'
    )


def _values(values: Any) -> list[tuple[str, str, str]]:
    return [("", "all", "全部"), *((esc(value), value, value) for value in sorted(set(values)))]


def sources_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Number the sources: their names hold blanks, which part the values of an attribute."""
    return {name: place for place, name in enumerate(sorted({row["source"] for row in rows}))}


def _box(by: str, en: str, zh: str, values: Sequence[tuple[str, str, str]], language: str) -> str:
    options = "".join(choice(*each, language) for each in values)
    return f'<label>{both(en, zh)}<select data-by="{by}">{options}</select></label>'


def _case(row: Mapping[str, Any], systems: Sequence[str], source: int) -> str:
    rights = [is_right(row, name) for name in systems]
    verdicts = " ".join(f"{'r' if right else 'w'}{place}" for place, right in enumerate(rights))
    seen = {True: "trained", False: "new"}.get(row["seen"], "")
    marks = (
        f'data-verdict="{verdicts}" data-wanted="{len(row["expected"])}" data-source="s{source}" '
        f'data-language="{esc(row["language"])}" data-seen="{seen}"'
    )
    head = [esc(row["id"]), esc(row["source"]), esc(f"{row['file']}:{row['line']}")]
    if row["ordered"] and len(row["expected"]) > 1:
        head.append(both("order counts", "顺序计入"))
    if row["seen"]:
        head.append(f'<b class="worse">{both("trained on this row", "训练过这一行")}</b>')
    turns = "".join(f'<p class="turns">{esc(role)}: {esc(text)}</p>' for role, text in row["history"])
    chips = "".join(
        f'<li class="wanted">{esc(name)}</li>' if name in row["expected"] else f"<li>{esc(name)}</li>"
        for name in row["actions"]
    )
    answers = "".join(_answer(row, name, right) for name, right in zip(systems, rights, strict=True))
    return (
        f'<article class="case" {marks}><div class="head">{"".join(f"<span>{each}</span>" for each in head)}</div>'
        f'{turns}<p class="question">{esc(row["question"])}</p><ul class="chips">{chips}</ul>'
        f'<div class="answers">{_reference(row)}{answers}</div></article>'
    )


def _reference(row: Mapping[str, Any]) -> str:
    title = both("wanted", "应有的回答")
    if row["reference"]:
        pieces = "".join(_piece(event, "plain") for event in parse(row["reference"]))
    elif row["expected"]:
        mark = " → " if row["ordered"] else " "
        pieces = mark.join(f'<span class="tag plain">{esc(name)}</span>' for name in row["expected"])
    else:
        pieces = f'<span class="soft">{both("no action", "不做动作")}</span>'
    return f'<div class="answer"><h3>{title}</h3><p>{pieces}</p></div>'


def _answer(row: Mapping[str, Any], system: str, right: bool) -> str:
    left = Counter(row["expected"])
    pieces = []
    for event in parse(row["answers"][system], row["actions"]):
        kind = "bad"
        if isinstance(event, Act):
            kind = "hit" if left[event.name] > 0 else "off"
            left[event.name] -= 1
        pieces.append(_piece(event, kind))
    missed = [name for name, count in left.items() for _ in range(count)]
    lost = f'<div class="missed">{both("missed:", "漏做:")} {esc("、".join(missed))}</div>' if missed else ""
    kind = "right" if right else "wrong"
    return f'<div class="answer {kind}"><h3>{esc(system)}</h3><p>{"".join(pieces)}</p>{lost}</div>'


def _piece(event: Event, kind: str) -> str:
    match event:
        case Say(text=text):
            return esc(text)
        case Act(name=name):
            return f'<span class="tag {kind}">{esc(name)}</span>'
        case Fault(raw=raw):
            return f'<span class="tag bad">{esc(raw)}</span>'
        case _:
            return ""
