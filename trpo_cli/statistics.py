"""Statistics over few runs or episodes: pure functions of NumPy arrays whose first axis they are.

After Agarwal et al. (2021), Deep Reinforcement Learning at the Edge of the Statistical Precipice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]

RESAMPLES = 2000  # of the runs, for an interval
AT_ONCE = 100  # resamples in memory
LEVELS = (0.025, 0.975)  # of a 95 % interval


def mean(samples: Floats) -> Floats:
    """Over the runs: (S, ...) -> (...)."""
    return np.asarray(samples.mean(0))


def iqm(samples: Floats) -> Floats:
    """The interquartile mean, that of the middle half: (S, ...) -> (...).

    A quarter of the runs, rounded down, is left out at either end; below four runs it is the mean.
    """
    cut = len(samples) // 4
    return np.asarray(np.sort(samples, axis=0)[cut : len(samples) - cut].mean(0))


STATISTICS: dict[str, Statistic] = {"mean": mean, "iqm": iqm}


def interval(strata: Sequence[Floats], statistic: Statistic = mean) -> tuple[Floats, Floats]:
    """The 95 % percentile bootstrap interval of a statistic: strata of (S_m, ...) -> low (...), high (...).

    Stratified: runs are drawn with replacement within their task, so that each task keeps its number of them.
    """
    generator = np.random.default_rng(0)

    def drawn(count: int) -> Floats:
        parts = [stratum[generator.integers(len(stratum), size=(count, len(stratum)))] for stratum in strata]
        return statistic(np.moveaxis(np.concatenate(parts, axis=1), 1, 0))

    values = np.concatenate([drawn(AT_ONCE) for _ in range(RESAMPLES // AT_ONCE)])
    low, high = np.quantile(values, LEVELS, axis=0)
    return low, high


def profile(scores: Floats, thresholds: Floats) -> Floats:
    """The share of runs whose score is above each threshold: (S,), (P,) -> (P,)."""
    return np.asarray((scores[:, None] > thresholds).mean(0))


def profile_interval(strata: Sequence[Floats], thresholds: Floats) -> tuple[Floats, Floats]:
    """The 95 % interval of the profile, by stratified bootstrap: (S_m,) each, (P,) -> low (P,), high (P,)."""
    return interval([(scores[:, None] > thresholds).astype(float) for scores in strata])


def trailing_mean(values: Floats, width: int) -> Floats:
    """Each value's mean with the `width` - 1 before it, as far as there are any: (I,) -> (I,)."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts))


def steps_to(threshold: float, steps: Floats, values: Floats) -> float:
    """The first of the steps (I,) where the value (I,) is at least the threshold; infinity if there is none."""
    reached = np.flatnonzero(values >= threshold)
    return float(steps[reached[0]]) if len(reached) else math.inf


def stretches(x: Floats, y: Floats, edges: Floats) -> Floats:
    """The mean of y (I,) over each of the stretches (edges[p], edges[p + 1]] of x (I,) -> (P,); NaN where none is."""
    there = ~np.isnan(y)
    places = np.searchsorted(edges[1:-1], x[there])
    counts = np.bincount(places, minlength=len(edges) - 1)
    sums = np.bincount(places, weights=y[there], minlength=len(edges) - 1)
    means: Floats = np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)
    return means
