"""Statistics over few runs or episodes: pure functions of NumPy arrays whose first axis they are.

Intervals of means are Student's, of their differences Welch's; of trimmed means Tukey and McLaughlin's (1963), of their
differences Yuen's (1974). Resampling, of five or ten runs, would cover too little. The probability of improvement has
Newcombe's interval (2006), its mean over tasks Zou and Donner's (2008). What is compared follows Agarwal et al. (2021),
Deep Reinforcement Learning at the Edge of the Statistical Precipice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FEWEST = 5  # runs or episodes that an interval is made of: of fewer, one sees the smallest and the largest
LEVELS = (0.025, 0.975)  # of a 95 % interval
PROBABILITIES = np.linspace(0.0, 1.0, 2001)  # that an interval is searched among


@dataclass(frozen=True)
class Statistic:
    """A mean over the runs that leaves out a share of them, rounded down, at either end: (S, ...) -> (...)."""

    name: str
    trimmed: float

    def __call__(self, samples: Floats) -> Floats:
        cut = self.cut(len(samples))
        return np.asarray(np.sort(samples, axis=0)[cut : len(samples) - cut].mean(0))

    def cut(self, count: int) -> int:
        """How many of so many runs are left out at either end."""
        return int(self.trimmed * count)


MEAN, IQM = Statistic("the mean", 0.0), Statistic("the interquartile mean", 0.25)
STATISTICS = {"mean": MEAN, "iqm": IQM}


@dataclass(frozen=True)
class Estimate:
    """A number with the variance of its error, and the degrees of freedom of that: arrays of one shape."""

    value: Floats
    variance: Floats
    freedom: Floats

    def interval(self) -> tuple[Floats, Floats]:
        """The 95 % interval."""
        from scipy.special import stdtrit  # type: ignore[import-untyped]

        reach = stdtrit(self.freedom, LEVELS[1]) * np.sqrt(self.variance)
        return self.value - reach, self.value + reach

    def p_value(self) -> float | None:
        """Of the hypothesis that the number, here a single one, is 0; None where nothing varies."""
        from scipy.special import stdtr

        if not self.variance > 0:
            return None
        return float(2 * stdtr(self.freedom, -abs(self.value) / np.sqrt(self.variance)))


def known(value: float, deviation: float | None = None, count: int = 1) -> Estimate:
    """The mean of so many numbers of which only that and their standard deviation are known; exact without one."""
    variance = 0.0 if deviation is None else deviation**2 / count
    return Estimate(np.asarray(value), np.asarray(variance), np.asarray(max(1.0, count - 1.0)))


def combination(weights: Sequence[float], parts: Sequence[Estimate]) -> Estimate:
    """A weighted sum of independent estimates; its degrees of freedom are Welch's and Satterthwaite's."""
    value = sum(weight * part.value for weight, part in zip(weights, parts, strict=True))
    variances = [weight**2 * part.variance for weight, part in zip(weights, parts, strict=True)]
    variance = np.asarray(sum(variances))
    uncertain = np.asarray(sum(own**2 / part.freedom for own, part in zip(variances, parts, strict=True)))
    freedom = np.divide(variance**2, uncertain, out=np.ones_like(uncertain), where=uncertain > 0)
    return Estimate(np.asarray(value), variance, freedom)


def difference(one: Estimate, other: Estimate) -> Estimate:
    """One less the other: Welch's, of two means."""
    return combination((1.0, -1.0), (one, other))


def estimate(strata: Sequence[Floats], statistic: Statistic = MEAN) -> Estimate:
    """The statistic of all runs together, strata of (S_m, ...) being those of one task each: two or more.

    A trimmed mean varies as the mean does of the runs of which those beyond the cuts were moved to them.
    """
    runs = np.sort(np.concatenate(strata), axis=0)
    count, cut = len(runs), statistic.cut(len(runs))
    left = count - 2 * cut
    means = [_mean(np.clip(stratum, runs[cut], runs[count - 1 - cut])) for stratum in strata]
    spread = combination([len(stratum) / left for stratum in strata], means)
    few = (left - 1) / (count - 1)  # Yuen's correction; 1 of a mean
    variance = spread.variance * left / (few * count)
    return Estimate(statistic(runs), variance, np.maximum(1.0, few * spread.freedom))


def _mean(samples: Floats) -> Estimate:
    freedom = len(samples) - 1.0
    value = samples.mean(0)
    return Estimate(value, samples.var(0, ddof=1) / len(samples), np.full_like(value, freedom))


def are_enough(strata: Sequence[Floats]) -> bool:
    """Whether there are runs enough for an interval: two of each task, `FEWEST` in all."""
    return min(map(len, strata)) > 1 and sum(map(len, strata)) >= FEWEST


def bounds(strata: Sequence[Floats], statistic: Statistic = MEAN) -> tuple[Floats, Floats]:
    """The 95 % interval of a statistic, strata of (S_m, ...) -> low (...), high (...); of too few runs, min and max."""
    if are_enough(strata):
        return estimate(strata, statistic).interval()
    runs = np.concatenate(strata)
    return runs.min(0), runs.max(0)


def profile(scores: Floats, thresholds: Floats) -> Floats:
    """The share of runs whose score is above each threshold: (S,), (P,) -> (P,)."""
    return np.asarray((scores[:, None] > thresholds).mean(0))


def profile_interval(scores: Floats, thresholds: Floats) -> tuple[Floats, Floats]:
    """The 95 % interval of each share of the profile, Clopper and Pearson's: (S,), (P,) -> low (P,), high (P,).

    That of equal chances covers those of several tasks too, whose shares vary less (Hoeffding 1956).
    """
    from scipy.special import betaincinv

    above = (scores[:, None] > thresholds).sum(0)
    below = len(scores) - above
    low = np.where(above > 0, betaincinv(np.maximum(above, 1), below + 1, LEVELS[0]), 0.0)
    high = np.where(below > 0, betaincinv(above + 1, np.maximum(below, 1), LEVELS[1]), 1.0)
    return low, high


def improvement(one: Floats, other: Floats) -> tuple[float, float, float]:
    """The probability that a run of one (S,) is above one of the other (T,), ties half, and its 95 % interval.

    Newcombe's fifth method, with the quantile of t as if both had as few runs as the one that has fewer. It has a width
    even where all runs of one are above all of the other.
    """
    from scipy.special import stdtrit

    sizes = len(one), len(other)
    found = float((np.sign(one[:, None] - other).mean() + 1) / 2)
    p = PROBABILITIES
    variance = p * (1 - p) * (1 + (sum(sizes) / 2 - 1) * ((1 - p) / (2 - p) + p / (1 + p))) / math.prod(sizes)
    quantile = stdtrit(max(1, 2 * (min(sizes) - 1)), LEVELS[1])
    held = p[(p - found) ** 2 <= quantile**2 * variance]
    return found, float(min(held[0], found)), float(max(held[-1], found))


def mean_improvement(parts: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    """The mean over tasks of probabilities of improvement, and its interval, made of theirs (MOVER)."""
    found, low, high = np.array(parts).T
    centre = float(found.mean())
    below, above = (float(np.linalg.norm(found - end)) / len(parts) for end in (low, high))
    return centre, centre - below, centre + above


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """The p-values, each corrected for how many there are by Holm's steps; None, of no test, does not count."""
    tests = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(tests):
        largest = max(largest, min(1.0, (len(tests) - rank) * p))
        corrected[place] = largest
    return corrected


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
