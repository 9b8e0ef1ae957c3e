"""Intervals: right where theory knows them, in pairs, and honest about what is undefined."""

from __future__ import annotations

import math

import numpy as np
import pytest

from actune.evaluate import bootstrap
from actune.evaluate.bootstrap import Resampled


def shares(values: list[float], name: str = "f1") -> list[dict[str, tuple[float, float]]]:
    return [{name: (value, 1)} for value in values]


def test_the_interval_of_a_mean_is_the_textbook_one() -> None:
    values = [float(n % 4 == 0) for n in range(400)]
    each = Resampled(shares(values), seed=0).estimates()["f1"]
    spread = 1.96 * math.sqrt(0.25 * 0.75 / 400)
    assert (each.value, each.n) == (0.25, 400)
    assert each.low == pytest.approx(0.25 - spread, abs=0.006)
    assert each.high == pytest.approx(0.25 + spread, abs=0.006)


def test_ratios_are_resampled_whole_rows_at_a_time() -> None:
    # All rows alike: whatever is drawn, the ratio is the same, though numerator and denominator vary between metrics.
    each = Resampled([{"f1": (2, 5)}] * 20, seed=0).estimates()["f1"]
    assert (each.value, each.low, each.high) == (0.4, 0.4, 0.4)
    # One row holds most of the weight; the interval must reach both its value and the others'.
    rows = [{"f1": (90.0, 100.0)}, *[{"f1": (0.0, 10.0)}] * 9]
    each = Resampled(rows, seed=0).estimates()["f1"]
    assert each.value == pytest.approx(90 / 190)
    assert each.low == 0
    assert each.high is not None
    assert each.high > 0.6


def test_what_never_counts_is_undefined() -> None:
    rows = [{"f1": (0.0, 0.0), "recall": (1.0, 1.0)}, {"f1": (0.0, 0.0), "recall": (0.0, 0.0)}]
    result = Resampled(rows, seed=0).estimates()
    assert result["f1"].to_dict() == {"value": None, "low": None, "high": None, "n": 0}
    # One of two rows counts; resamples without it say nothing, the others all say 1.
    assert result["recall"].to_dict() == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 1}
    assert Resampled([], seed=0).estimates() == {}


def test_differences_are_paired() -> None:
    noise = np.random.default_rng(3).random(200)
    one, other = Resampled(shares(list(noise)), seed=0), Resampled(shares(list(noise - 0.1)), seed=0)
    gain = one.minus(other)["f1"]
    assert gain.value == pytest.approx(0.1)
    # Unpaired, the noise of the rows would make it some 0.08 wide.
    assert gain.low == pytest.approx(0.1)
    assert gain.high == pytest.approx(0.1)
    assert one.minus(Resampled(shares([1.0] * 200, "other"), seed=0)) == {}


def test_perplexity_is_the_exponential_of_the_mean() -> None:
    rows = [{"ppl": (math.log(2) * 3, 3)}, {"ppl": (math.log(8), 1)}]
    assert Resampled(rows, seed=0).estimates()["ppl"].value == pytest.approx(
        math.exp((3 * math.log(2) + math.log(8)) / 4)
    )


def test_the_seed_decides_and_the_memory_bound_does_not_break_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = shares([n * n / 2500 for n in range(50)])
    first = Resampled(rows, seed=5).estimates()
    assert first == Resampled(rows, seed=5).estimates() != Resampled(rows, seed=6).estimates()
    monkeypatch.setattr(bootstrap, "_MOST_WEIGHTS", 50 * 7)
    parted = Resampled(rows, seed=5).estimates()["f1"]
    assert parted.low == pytest.approx(first["f1"].low, rel=0.05)
