"""Calibration finds what helps on the rows it is given, and says when they are too few."""

from __future__ import annotations

import random

import pytest
import torch

from actune.data.rows import Row
from actune.engine.local import LocalEngine
from actune.prompt import PromptFormat
from actune.script.acting import Acting
from actune.tune.calibrate import LEAST_ROWS, NONE_RIGHT, PRICE, START, calibrate
from tiny_actor import byte_tokenizer, tiny_llama

NAMES = ("tea", "light-on", "sing")
TOKENIZER = byte_tokenizer()


def rows(count: int, wanted: int) -> list[Row]:
    """Rows of which every fourth wants nothing, the others `wanted` different actions."""
    tags = "".join(f"<&{name}&>" for name in NAMES[:wanted])
    return [Row(NAMES, f"question {n}", "words" if n % 4 == 0 else f"{tags}words") for n in range(count)]


def engine(push: float) -> LocalEngine:
    """A random model that is pushed to open tags, always by `<&`."""
    made = LocalEngine(tiny_llama(TOKENIZER), TOKENIZER, [TOKENIZER.eos_token_id])
    extra = torch.zeros(made.vocabulary.size)
    extra[TOKENIZER.convert_tokens_to_ids("<")] = -100.0
    extra[TOKENIZER.convert_tokens_to_ids("<&")] = push
    forward = made.forward
    made.forward = lambda *args: forward(*args) + extra
    return made


def _worth(scores: dict[str, float]) -> float:
    return scores["f1"] - PRICE * max(0.0, NONE_RIGHT - scores["none_right"])


def test_few_rows_set_nothing_and_it_is_said():
    data = rows(LEAST_ROWS - 1, 1)
    acting, found = calibrate(engine(0.0), PromptFormat.for_rows(data, TOKENIZER), data)
    assert acting == START
    assert str(LEAST_ROWS - 1) in found["note"]
    assert found["written"] == 0


def test_acting_too_much_is_curbed():
    data = rows(16, 1)
    made = engine(9.0)
    acting, found = calibrate(made, PromptFormat.for_rows(data, TOKENIZER), data)
    assert acting != START
    assert _worth(found["chosen"]) > _worth(found["start"])
    # Never to act would leave all rows alone that want nothing, and be worth less.
    assert found["chosen"]["f1"] > 0
    # Most numbers change nothing for most rows: those answers are not written again.
    assert len(found["tried"]) > 30
    assert found["written"] < 0.3 * len(found["tried"]) * len(data)
    again, _ = calibrate(engine(9.0), PromptFormat.for_rows(data, TOKENIZER), data)
    assert again == acting


def test_scores_are_those_of_answers_written_with_these_numbers():
    from actune.tune.calibrate import _Asked, _request, _Search

    data, made = rows(8, 2), engine(9.0)
    fmt = PromptFormat.for_rows(data, TOKENIZER)
    kept = _Search(made, [_Asked(row, _request(made, fmt, row)) for row in data])
    dice = random.Random(1)
    for _ in range(25):
        acting = Acting(
            bias=dice.choice((-2.0, 0.0, 1.0)),
            again=dice.choice((-3.0, 0.0)),
            gate=dice.choice((None, 7.0, 8.0, 9.0, 10.0)),
            heard=dice.choice((0.0, 0.2)),
            gamma=dice.choice((0.0, 1.0)),
            repeats=dice.random() < 0.5,
        )
        fresh = _Search(made, [_Asked(row, _request(made, fmt, row)) for row in data])
        assert kept.scores(acting) == pytest.approx(fresh.scores(acting))
    assert kept.written < 25 * len(data) * 0.7


def test_of_gates_that_are_about_as_good_the_middle_one_is_taken_and_none_if_that_is_as_good(monkeypatch):
    from actune.tune import calibrate as calibrating

    data, made = rows(16, 1), engine(9.0)
    fmt = PromptFormat.for_rows(data, TOKENIZER)
    search = calibrating._Search(made, [calibrating._Asked(row, calibrating._request(made, fmt, row)) for row in data])
    for slack in (0.0, 0.1):
        monkeypatch.setattr(calibrating, "SLACK", slack)
        taken = calibrating._gate(search, START)
        best = max(search.worth(acting) for acting in search.tried)
        good = sorted(one.gate for one in search.tried if one.gate is not None and search.worth(one) >= best - slack)
        assert search.worth(START) < best - slack, "without a gate it acts too much"
        assert abs(sum(gate < taken.gate for gate in good) - sum(gate > taken.gate for gate in good)) <= 1
    monkeypatch.setattr(calibrating, "SLACK", 9.0)
    assert calibrating._gate(search, START).gate is None
    assert search.written == len(data), "a gate needs no new answers"


def test_in_the_end_a_gate_is_looked_for_again_whatever_was_taken_at_the_start(monkeypatch):
    from actune.tune import calibrate as calibrating

    def later(*_):
        monkeypatch.setattr(calibrating, "SLACK", 9.0)
        return iter(())

    data = rows(16, 1)
    monkeypatch.setattr(calibrating, "SLACK", 0.0)
    monkeypatch.setattr(calibrating, "_choice", later)
    acting, found = calibrate(engine(9.0), PromptFormat.for_rows(data, TOKENIZER), data)
    assert acting.gate is None
    assert any(tried.get("gate") is not None for tried in found["tried"])


def test_with_one_answer_a_row_a_gate_is_found_and_nothing_more_is_asked():
    data = rows(16, 1)
    acting, found = calibrate(engine(9.0), PromptFormat.for_rows(data, TOKENIZER), data, each=1)
    assert acting.gate is not None
    assert found["written"] == len(data)
    assert _worth(found["chosen"]) > _worth(found["start"])
