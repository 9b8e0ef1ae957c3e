"""Intervals by resampling rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from actune.script.score import Part

RESAMPLES = 2000
LOW, HIGH = 2.5, 97.5
# Weights held at once, so that a hundred thousand rows do not fill the memory.
_MOST_WEIGHTS = 8_000_000

# Metrics that are the exponential of a mean.
EXPONENTIAL = frozenset({"ppl"})

Samples = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval.

    Args:
        value: None where nothing counts for it.
        low: Lower end.
        high: Upper end.
        n: Rows that count for it.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Give the form that the report holds."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


class Resampled:
    """The scores of one system on the rows and on resamples of them.

    Percentile bootstrap over rows (Efron & Tibshirani, *An Introduction to the Bootstrap*, 13.3). The same seed and
    number of rows draw the same resamples, so that two systems on the same rows are compared in pairs. Where all rows
    agree (0 of 8), the interval has no width, which is too narrow.

    Args:
        parts: What each row adds to numerator and denominator of each metric, e.g. from `score.tally`.
        seed: Of the resampling.
    """

    def __init__(self, parts: Sequence[Mapping[str, Part]], seed: int) -> None:
        self.metrics = tuple(parts[0]) if parts else ()
        table = np.array([[part[name] for name in self.metrics] for part in parts], dtype=np.float64)
        self._table = table.reshape(len(parts), len(self.metrics), 2)
        sums = np.concatenate([self._table.sum(0)[None], self._resampled_sums(seed)])
        self._values = _divide(sums, self.metrics)

    def _resampled_sums(self, seed: int) -> Samples:
        rows, metrics = self._table.shape[:2]
        if not rows:
            return np.zeros((0, metrics, 2))
        rng, flat = np.random.default_rng(seed), self._table.reshape(rows, -1)
        step = max(1, _MOST_WEIGHTS // rows)
        share = np.full(rows, 1 / rows)
        sums = [
            rng.multinomial(rows, share, size=min(step, RESAMPLES - first)) @ flat
            for first in range(0, RESAMPLES, step)
        ]
        return np.concatenate(sums).reshape(RESAMPLES, metrics, 2)

    def estimates(self) -> dict[str, Estimate]:
        """Return value and interval of each metric."""
        counts = (self._table[:, :, 1] > 0).sum(0)
        return {name: _estimate(self._values[:, place], int(counts[place])) for place, name in enumerate(self.metrics)}

    def minus(self, other: Resampled) -> dict[str, Estimate]:
        """Return the difference to another system on the same rows, for the metrics that both have."""
        result = {}
        for place, name in enumerate(self.metrics):
            if name in other.metrics:
                both = self._values[:, place] - other._values[:, other.metrics.index(name)]
                result[name] = _estimate(both, int((self._table[:, place, 1] > 0).sum()))
        return result


def _divide(sums: Samples, metrics: Sequence[str]) -> Samples:
    """Turn sums [samples, metrics, 2] into values [samples, metrics]; NaN where the denominator is 0."""
    under = np.where(sums[..., 1] > 0, sums[..., 1], np.nan)
    values = sums[..., 0] / under
    for place, name in enumerate(metrics):
        if name in EXPONENTIAL:
            values[:, place] = np.exp(values[:, place])
    return np.asarray(values, dtype=np.float64)


def _estimate(values: Samples, count: int) -> Estimate:
    """Make an estimate from the value itself and its resamples [1 + resamples]."""
    if not len(values) or not math.isfinite(values[0]):
        return Estimate()
    # A resample may hold no row that counts; it then says nothing.
    good = values[1:][np.isfinite(values[1:])]
    low, high = np.percentile(good, [LOW, HIGH]) if len(good) else (values[0], values[0])
    return Estimate(float(values[0]), float(low), float(high), count)
