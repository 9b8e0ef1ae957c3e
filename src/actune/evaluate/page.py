"""`report.html`: one file that needs no network, in two languages."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from actune.errors import speaks_chinese
from actune.evaluate.markup import both, esc, interval
from actune.evaluate.page_rows import confusion_section, rows_section
from actune.evaluate.report import ALL_METRICS, SHARES
from actune.evaluate.terminal import main_pair, notes, verdict
from actune.evaluate.wording import (
    FORGETTING,
    FORGETTING_MEANING,
    LABEL_NAMES,
    METRIC_MEANINGS,
    METRIC_NAMES,
    SLICE_NAMES,
    show,
)

SLICE_METRICS = ("f1", "exact_act", "none_right")


def write_page(file: Path, report: Mapping[str, Any]) -> None:
    """Write the page.

    Args:
        file: Where to.
        report: From `report.make_report`.
    """
    from actune.tune.run import write_whole

    write_whole(file, page(report, "zh" if speaks_chinese() else "en"))


def page(report: Mapping[str, Any], language: str) -> str:
    """Give the page as HTML.

    Args:
        report: From `report.make_report`.
        language: `en` or `zh`, shown first.
    """
    script = (files(__package__) / "page.js").read_text(encoding="utf-8")
    style = (files(__package__) / "page.css").read_text(encoding="utf-8")
    # Only our own script may run: what a row holds never does, even if an escape were forgotten.
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'"
    sections = [
        _head(report),
        _summary(report),
        _forgetting(report["forgetting"]),
        _slices(report),
        confusion_section(report),
        rows_section(report, language),
    ]
    return (
        f'<!doctype html>\n<html lang="{language}">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>actune eval</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"{''.join(sections)}</main>\n<script>{script}</script>\n</body>\n</html>\n"
    )


def _head(report: Mapping[str, Any]) -> str:
    about = report["about"]
    data = about["data"]
    systems = "; ".join(f"{name} = {each['given']}" for name, each in about["systems"].items())
    warnings = "".join(f'<p class="note">{both(*note)}</p>' for note in notes(about))
    count = both(f"{data['rows']} of {data['of']} rows", f"{data['of']} 行中的 {data['rows']} 行")
    size = about["setting"]["list_size"]
    filled = both(f", lists filled up to {size}", f", 列表补足到 {size}") if size else ""
    return (
        f"<header><h1>actune eval</h1><span>{count}{filled}</span>"
        '<button id="language" type="button">中文 / English</button></header><main>'
        f'<p class="soft small">{esc(", ".join(data["files"]))} · {esc(systems)} · actune {esc(about["actune"])}</p>'
        f"{warnings}"
    )


def _summary(report: Mapping[str, Any]) -> str:
    scores, pair = report["scores"], main_pair(list(report["scores"]))
    changes = {each["metric"]: each for each in report["difference"] if (each["a"], each["b"]) == pair}
    head = "".join(f'<th class="s{place % 4}">{esc(name)}</th>' for place, name in enumerate(scores))
    if pair:
        head += f"<th>{esc(pair[0])} − {esc(pair[1])}</th>"
    lines = []
    for metric in ALL_METRICS:
        some = [each[metric] for each in scores.values()]
        if all(each["value"] is None for each in some):
            continue
        highest = 1.0 if metric in SHARES else max(each["high"] or 0 for each in some) or 1.0
        cells = "".join(
            f'<td class="s{place % 4}">{_cell(metric, each, 0, highest)}</td>' for place, each in enumerate(some)
        )
        if metric in changes:
            change = changes[metric]
            kind = ("", "better", "worse")[verdict(metric, change["low"], change["high"])]
            cells += f'<td class="{kind}">{_cell(metric, change, -highest, highest)}</td>'
        name = f'{both(*METRIC_NAMES[metric])}<span class="meaning">{both(*METRIC_MEANINGS[metric])}</span>'
        lines.append(f"<tr><td>{name}</td>{cells}</tr>")
    hint = both(
        "Bands are 95 % intervals (bootstrap over rows; differences in pairs). Green or red: surely better or worse. "
        "Where all rows agree, or there are only a few, an interval is too narrow. n: rows that count.",
        "色带为 95% 区间 (按行自助抽样; 差值成对计算)。绿色或红色: 确定变好或变差。"
        "若各行结果相同或行数很少, 区间会偏窄。n: 计入的行数。",
    )
    return (
        f"<section><h2>{both('Scores', '得分')}</h2><table><tr><th>{both('score', '指标')}</th>{head}</tr>"
        f'{"".join(lines)}</table><p class="soft small">{hint}</p></section>'
    )


def _cell(metric: str, each: Mapping[str, Any], low: float, high: float) -> str:
    if each.get("value") is None:
        return '<span class="soft">-</span>'
    ends = f"{show(metric, each['low'])} … {show(metric, each['high'])}"
    rows = f' <span class="range">n={each["n"]}</span>' if "n" in each else ""
    return (
        f'<span class="value">{show(metric, each["value"])}</span>{rows}{interval(each, low, high)}'
        f'<span class="range">{ends}</span>'
    )


def _forgetting(forgetting: Mapping[str, Any]) -> str:
    if not forgetting:
        return ""
    highest = max(each["high"] or 0 for each in forgetting.values()) or 1.0
    lines = []
    for name, each in forgetting.items():
        parts = [(both("all", "全部"), each), *((esc(lang), part) for lang, part in each["languages"].items() if part)]
        cells = "".join(f"<td>{label} {_cell('kl', part, 0, highest)}</td>" for label, part in parts)
        lines.append(f"<tr><td>{esc(name)}</td>{cells}</tr>")
    return (
        f"<section><h2>{both(*FORGETTING)}</h2><table>{''.join(lines)}</table>"
        f'<p class="soft small">{both(*FORGETTING_MEANING)}</p></section>'
    )


def _slices(report: Mapping[str, Any]) -> str:
    slices = {by: labels for by, labels in report["slices"].items() if len(labels) > 1}
    if not slices:
        return ""
    shown = [(place, name) for place, name in enumerate(report["scores"]) if not name.endswith(".free")]
    head = "".join(
        f'<th class="s{place % 4}">{esc(name)}: {both(*METRIC_NAMES[metric])}</th>'
        for metric in SLICE_METRICS
        for place, name in shown
    )
    lines = [
        f"<tr><td>{both(*SLICE_NAMES[by])}: {_label(label)}</td>{_slice_cells(systems, shown)}</tr>"
        for by, labels in slices.items()
        for label, systems in labels.items()
    ]
    return (
        f"<section><h2>{both('Slices', '切片')}</h2><table><tr><th></th>{head}</tr>{''.join(lines)}</table></section>"
    )


def _label(label: str) -> str:
    return both(*LABEL_NAMES[label]) if label in LABEL_NAMES else esc(label)


def _slice_cells(systems: Mapping[str, Any], shown: Sequence[tuple[int, str]]) -> str:
    return "".join(
        f'<td class="s{place % 4}">{_cell(metric, systems[name][metric], 0, 1)}</td>'
        for metric in SLICE_METRICS
        for place, name in shown
    )
