"""Small pieces of the page. Whatever comes from data goes through `esc`."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

WIDTH, HEIGHT = 124, 14


def esc(text: object) -> str:
    """Make a text safe inside elements and quoted attributes."""
    return html.escape(str(text), quote=True)


def both(en: str, zh: str) -> str:
    """Write a text of ours in both languages; the page shows one."""
    return f'<span data-l="en">{esc(en)}</span><span data-l="zh">{esc(zh)}</span>'


def choice(value: str, en: str, zh: str, language: str) -> str:
    """Write an entry of a select box, which can hold no spans."""
    shown = zh if language == "zh" else en
    return f'<option value="{esc(value)}" data-en="{esc(en)}" data-zh="{esc(zh)}">{esc(shown)}</option>'


def interval(each: Mapping[str, Any], low: float, high: float) -> str:
    """Draw an interval and its value on an axis.

    Args:
        each: `value`, `low` and `high`; nothing is drawn without a value.
        low: Left end of the axis.
        high: Right end; more than `low`.
    """
    if each.get("value") is None:
        return ""

    def x(value: float) -> float:
        return round(4 + (WIDTH - 8) * (min(max(value, low), high) - low) / (high - low), 1)

    left, right, middle = x(each["low"]), x(each["high"]), HEIGHT / 2
    zero = f'<line class="axis" x1="{x(0)}" y1="0" x2="{x(0)}" y2="{HEIGHT}"/>' if low < 0 < high else ""
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true">'
        f'<line class="axis" x1="4" y1="{middle}" x2="{WIDTH - 4}" y2="{middle}"/>{zero}'
        f'<rect class="band" x="{left}" y="2" width="{max(right - left, 1)}" height="{HEIGHT - 4}"/>'
        f'<circle class="dot" cx="{x(each["value"])}" cy="{middle}" r="4"/></svg>'
    )
