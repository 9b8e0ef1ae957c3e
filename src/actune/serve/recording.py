"""Recorded answers: a file with one JSON object a line, as the stage saves it and as ``actune say --json`` prints.

A line ``{"type": "ask", "question", "actions", "model"}`` begins an answer; events follow, each with the milliseconds
since the question (``ms``). Answers of two models may be mixed: then each event names its model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actune.errors import UserError, either
from actune.script.catalogue import catalogue
from actune.script.events import from_json

# Between events that tell no time.
PACE_MS = 60.0


@dataclass
class Take:
    """One recorded answer: its question, and (milliseconds, event in wire form) in order."""

    question: str = "…"
    actions: list[str] = field(default_factory=list)
    model: str = "replay"
    events: list[tuple[float, dict[str, Any]]] = field(default_factory=list)

    def add(self, event: dict[str, Any]) -> None:
        """Take the next event in."""
        before = self.events[-1][0] if self.events else 0.0
        ms = event.get("ms")
        # No event comes before the one it follows.
        at = max(before, float(ms)) if isinstance(ms, int | float) else before + PACE_MS
        rest = {key: value for key, value in event.items() if key not in ("ms", "model", "seq")}
        self.events.append((at, {"seq": len(self.events), **rest}))

    @property
    def ended(self) -> bool:
        """Whether its last event is there."""
        return bool(self.events) and self.events[-1][1]["type"] == "done"


def read_recording(file: Path) -> list[Take]:
    """Read a recording.

    Raises:
        UserError: It cannot be read, or a line is no event.
    """
    takes: list[Take] = []
    last: dict[str, Take] = {}
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _fault(str(file), str(error)) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
            if data["type"] == "ask":
                take = Take(str(data["question"]), list(catalogue(data["actions"])), str(data.get("model", "replay")))
                takes.append(take)
                last[take.model] = take
                continue
            from_json(data)  # It judges.
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _fault(f"{file}:{number}", f"{line[:80]} ({type(error).__name__}: {error})") from error
        model = str(data.get("model", takes[-1].model if takes else "replay"))
        if model not in last or last[model].ended:
            # No question stands before these events: `actune say --json` prints none.
            last[model] = Take(model=model)
            takes.append(last[model])
        last[model].add(data)
    if not takes:
        raise _fault(str(file), either("no events", "没有事件"))
    for take in takes:
        if not take.ended:
            take.add({"type": "done", "finish_reason": "interrupted", "ttft_ms": None, "tokens": None})
    return takes


def _fault(where: str, got: str) -> UserError:
    return UserError(
        where,
        got,
        either("one JSON event a line", "每行一个 JSON 事件"),
        either("save one on the stage, or use actune say --json", "在舞台上保存, 或用 actune say --json"),
    )
