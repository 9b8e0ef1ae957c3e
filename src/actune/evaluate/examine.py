"""Let systems answer the cases and put the report together, in an order that needs each model once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from actune import __version__, prompt
from actune.engine.logits import Text
from actune.errors import either
from actune.evaluate.answers import answer, requests_for
from actune.evaluate.cases import Case, labels
from actune.evaluate.general import base_answers, forgotten, questions
from actune.evaluate.likelihood import reference_parts
from actune.evaluate.report import Result, make_report
from actune.evaluate.systems import System, base_within, load_systems
from actune.say import How, tell_dropped
from actune.script.score import Part
from actune.tune.seen import read_seen, said_hash

Advance = Callable[[int], None]


def examine(
    run: str, against: str | None, cases: Sequence[Case], how: How, forgetting: bool, about: Mapping[str, Any]
) -> dict[str, Any]:
    """Score a system, or two.

    Args:
        run: What is scored first; `seen` and `unseen` are its.
        against: `base`, what is scored second, or None.
        cases: What is asked.
        how: How the systems are loaded and speak; `free` scores them without the constraint too.
        forgetting: Compare tuned systems with their bases on general questions.
        about: Goes into the report, with the systems added.

    Returns:
        The report, see `report.make_report`.

    Raises:
        UserError: A system cannot be loaded, does not compute, or rows do not fit.
    """
    systems = load_systems(run, against, how)
    for system in systems:
        requests_for(system, cases, how)  # all that cannot be rendered is told before the long work
    with _progress(systems, cases, how, forgetting) as advance:
        # While the adapters are apart; folded, a model has its base no more.
        forgot = {system.name: kl for system in systems if forgetting and (kl := _forgetting(system, systems, advance))}
        results: dict[str, Result] = {}
        for system in sorted(systems, key=lambda system: not system.shared):
            if not (system.shared or how.unmerged):
                system.fold()
            for result in _results(system, cases, how, advance):
                results[result.name] = result
    seen = read_seen_rows(run, cases)
    whole = {**about, **_told(systems, seen)}
    for system in systems:
        tell_dropped(system.actor)
    trained = None if seen is None else seen[1]
    marks = [labels(case, trained, None if seen is None else seen[0][index]) for index, case in enumerate(cases)]
    names = [name for system in systems for name in (system.name, f"{system.name}.free") if name in results]
    return make_report(whole, cases, marks, [results[name] for name in names], forgot, how.seed)


def _told(systems: Sequence[System], seen: tuple[list[bool], frozenset[str]] | None) -> dict[str, Any]:
    """Say what was scored, for the report."""
    told = {
        system.name: {
            "given": system.given,
            "kind": system.kind,
            "lost": system.actor.losses,
            "dropped": dict(system.actor.dropped),
        }
        for system in systems
    }
    asked = {"asked": systems[0].kind != "base", "rows": None if seen is None else sum(seen[0])}
    return {"actune": __version__, "systems": told, "seen": asked}


def read_seen_rows(run: str, cases: Sequence[Case]) -> tuple[list[bool], frozenset[str]] | None:
    """Tell which cases a run was trained on, and the actions it was trained to do; None if it does not tell."""
    seen = read_seen(Path(run)) if Path(run).is_dir() else None
    return None if seen is None else ([said_hash(case.row) in seen.rows for case in cases], seen.actions)


def _results(system: System, cases: Sequence[Case], how: How, advance: Advance) -> list[Result]:
    references = _references(system, cases, how, advance)
    results = [Result(system.name, answer(system, cases, how, False, advance), references)]
    if how.free:
        nothing: list[Part] = [(0, 0)] * len(cases)
        results.append(Result(f"{system.name}.free", answer(system, cases, how, True, advance), nothing))
    return results


def _references(system: System, cases: Sequence[Case], how: How, advance: Advance) -> list[Part]:
    """Measure how likely the references are; (0, 0) without one, where it does not fit, or on another engine."""
    actor, texts = system.actor, {}
    if not actor.engine.supports.acting:
        return [(0, 0)] * len(cases)
    for index, (case, request) in enumerate(zip(cases, requests_for(system, cases, how), strict=True)):
        if case.row.script:
            fmt = actor.format_for(case.row.question, case.row.history)
            text = Text(request.prompt, prompt.answer_ids(actor.tokenizer, fmt, case.row.script))
            if actor.engine.context is None or len(text.prompt) + len(text.answer) <= actor.engine.context:
                texts[index] = text
    with system.on():
        parts = dict(zip(texts, reference_parts(actor.local.model, list(texts.values()), advance), strict=True))
    return [parts.get(index, (0, 0)) for index in range(len(cases))]


def _forgetting(system: System, systems: Sequence[System], advance: Advance) -> list[tuple[str, Part]]:
    base = _base_for(system, systems)
    if base is None:
        return []
    general = base_answers(base, advance)
    parts = forgotten(base, system, general, advance)
    return [(each.language, part) for each, part in zip(general, parts, strict=True)]


def _base_for(system: System, systems: Sequence[System]) -> System | None:
    """Find the base of a tuned system, if it is in memory."""
    if system.kind == "base" or not system.actor.engine.supports.acting:
        return None
    return base_within(system) or next((other for other in systems if other.name == "base"), None)


class _Progress:
    """A bar on stderr, gone at the end."""

    def __init__(self, total: int) -> None:
        self._bar = Progress(
            TextColumn(either("answers", "回答")),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Advance:
        self._bar.start()
        return lambda count: self._bar.advance(self._task, count)

    def __exit__(self, *error: object) -> None:
        self._bar.stop()


def _progress(systems: Sequence[System], cases: Sequence[Case], how: How, forgetting: bool) -> _Progress:
    references = sum(bool(case.row.script) for case in cases)
    total = len(systems) * (len(cases) * (2 if how.free else 1) + references)
    if forgetting:
        total += sum(2 * len(questions()) for system in systems if _base_for(system, systems))
    return _Progress(total)
