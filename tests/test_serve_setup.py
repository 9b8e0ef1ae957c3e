"""What a server loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from actune.errors import UserError
from actune.say import How
from actune.serve.answer import Asked
from actune.serve.options import Load
from actune.serve.setup import make_house
from serve_tools import run as run_loop
from test_actor import NAMES, run

__all__ = ["run"]  # a fixture


def house(run: Path, **options):
    more = {"names": NAMES, "dialect": "native", "name": "", "compare": False} | options
    return make_house(str(run), How(persona="Mei", max_tokens=7, temperature=0.5), Load(max_batch=3), **more)


def test_run_is_known_by_its_folder(run):
    assert list(house(run).models) == ["run"]
    assert list(house(run, name="mei").models) == ["mei"]
    defaults = house(run, dialect="airi").defaults
    assert (defaults.names, defaults.persona, defaults.dialect) == (NAMES, "Mei", "airi")
    assert (defaults.max_tokens, defaults.temperature) == (7, 0.5)


def test_dropped_tags_are_told(run):
    made = house(run)
    [scheduler] = made.models.values()
    scheduler._actor.dropped["unlisted"] += 3
    assert b"actune_dropped_tags 3.0" in made.metrics.text()


def test_base_stands_beside_the_run_and_answers_otherwise(run):
    made = house(run, compare=True)
    assert list(made.models) == ["run", "base"]
    assert list(house(run, compare=True, name="base").models) == ["tuned", "base"]

    async def main() -> list:
        answers = []
        for scheduler in made.models.values():
            scheduler.start()
            answers.append((await (await scheduler.ask(Asked("hungry", max_tokens=20))).whole())[:-1])
            await scheduler.stop()
        return answers

    tuned, base = run_loop(main())
    assert tuned != base
    with pytest.raises(UserError, match="--compare"):
        house(run.parent / "merged", compare=True)
