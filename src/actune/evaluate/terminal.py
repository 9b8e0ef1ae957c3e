"""The report as a table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from actune.errors import either
from actune.evaluate.report import ALL_METRICS, LOWER_IS_BETTER
from actune.evaluate.wording import FORGETTING, LABEL_NAMES, METRIC_NAMES, SLICE_NAMES, show

# Columns of a cell with value and interval.
_WIDE = 26


def print_report(console: Console, report: Mapping[str, Any]) -> None:
    """Print scores with intervals, differences, forgetting and slices."""
    for line in notes(report["about"]):
        console.print(Text(either(*line), style="yellow"))
    console.print(_summary(report, console.width))
    for name, each in report["forgetting"].items():
        text = f"{name}: {either(*FORGETTING)}: {_interval('kl', each)}"
        by = "; ".join(f"{lang} {show('kl', part['value'])}" for lang, part in each["languages"].items() if part)
        console.print(Text(f"{text} ({by})"))
    if table := _slices(report):
        console.print(table)


def notes(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Say, in English and Chinese, what whoever reads the scores must know."""
    seen, rows = about["seen"]["rows"], about["data"]["rows"]
    if seen:
        return [
            (
                f"{seen} of these {rows} rows were trained on: their scores tell what was learnt by heart. "
                "Look at the slice of new rows.",
                f"这 {rows} 行中有 {seen} 行训练过: 它们的分数只说明背下了多少。请看新行的分数。",
            )
        ]
    if seen is None and about["seen"]["asked"]:
        return [
            (
                "It is not known which rows were trained on: the run does not tell.",
                "不知道哪些行训练过: 训练结果里没有记录。",
            )
        ]
    return []


def main_pair(systems: Sequence[str]) -> tuple[str, str] | None:
    """Return the two systems to compare first: the constrained ones; else one with its free self."""
    bound = [name for name in systems if not name.endswith(".free")]
    pair = bound if len(bound) > 1 else systems
    return (pair[0], pair[1]) if len(pair) > 1 else None


def verdict(metric: str, low: float | None, high: float | None) -> int:
    """Say whether a difference is surely for the better (1), for the worse (-1), or may be nothing (0)."""
    if low is None or high is None or low <= 0 <= high:
        return 0
    return -1 if (low > 0) == (metric in LOWER_IS_BETTER) else 1


def _interval(metric: str, each: Mapping[str, Any], between: str = " ") -> str:
    if each.get("value") is None:
        return "-"
    return f"{show(metric, each['value'])}{between}[{show(metric, each['low'])}, {show(metric, each['high'])}]"


def _summary(report: Mapping[str, Any], width: int) -> Table:
    scores, pair = report["scores"], main_pair(list(report["scores"]))
    rows = report["about"]["data"]["rows"]
    table = Table(title=either(f"{rows} rows, 95 % intervals", f"{rows} 行, 95% 区间"))
    table.add_column(either("score", "指标"), no_wrap=True)
    for name in scores:
        table.add_column(name, justify="right", no_wrap=True)
    if pair:
        table.add_column(f"{pair[0]} - {pair[1]}", justify="right", no_wrap=True)
    changes = {each["metric"]: each for each in report["difference"] if (each["a"], each["b"]) == pair}
    # An interval stands below its value where a line has no room for both.
    between = " " if _WIDE * (1 + len(scores) + bool(pair)) <= width else "\n"
    for metric in ALL_METRICS:
        if all(each[metric]["value"] is None for each in scores.values()):
            continue
        cells: list[str | Text] = [either(*METRIC_NAMES[metric])]
        cells += [_interval(metric, each[metric], between) for each in scores.values()]
        if metric in changes:
            change = changes[metric]
            style = ("", "green", "red")[verdict(metric, change["low"], change["high"])]
            cells.append(Text(_interval(metric, change, between), style=style))
        table.add_row(*cells)
    return table


def _slices(report: Mapping[str, Any]) -> Table | None:
    slices = {by: labels for by, labels in report["slices"].items() if len(labels) > 1}
    if not slices:
        return None
    names = [name for name in report["scores"] if not name.endswith(".free")]
    table = Table(title=either("F1 / idle rows right, by slice", "各切片的 F1 / 无动作行正确率"))
    table.add_column(either("slice", "切片"))
    table.add_column(either("rows", "行数"), justify="right")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for by, labels in slices.items():
        for label, systems in labels.items():
            # Every row tells whether a tag was left open, so this counts the rows.
            count = max(each["unclosed"]["n"] for each in systems.values())
            cells = [
                f"{show('f1', each['f1']['value'])} / {show('none_right', each['none_right']['value'])}"
                for each in (systems[name] for name in names)
            ]
            shown = either(*LABEL_NAMES.get(label, (label, label)))
            table.add_row(Text(f"{either(*SLICE_NAMES[by])}: {shown}"), str(count), *cells)
        table.add_section()
    return table
