"""Statistics of few runs or episodes: pure functions of NumPy arrays whose first axis is the run or episode.

Intervals are Student's for means and Welch's for their differences, Tukey and McLaughlin's (1963) for trimmed means and
Yuen's (1974) for their differences. Intervals from resampling five or ten runs would be too narrow. The interval of the
probability of improvement is Newcombe's (2006), that of its mean over tasks Zou and Donner's (2008). The choice of
statistics follows Agarwal et al. (2021), Deep Reinforcement Learning at the Edge of the Statistical Precipice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FEWEST = 5  # runs or episodes for an interval; for fewer, minimum and maximum replace it
LEVELS = (0.025, 0.975)  # the quantiles of a 95 % interval
PROBABILITIES = np.linspace(0.0, 1.0, 2001)  # candidates for the ends of an interval


@dataclass(frozen=True)
class Statistic:
    """The mean over runs without a share of them, rounded down, at either end: (S, ...) -> (...)."""

    name: str
    trimmed: float

    def __call__(self, samples: Floats) -> Floats:
        cut = self.cut(len(samples))
        return np.asarray(np.sort(samples, axis=0)[cut : len(samples) - cut].mean(0))

    def cut(self, count: int) -> int:
        """How many of `count` runs are left out at either end."""
        return int(self.trimmed * count)


MEAN, IQM = Statistic("the mean", 0.0), Statistic("the interquartile mean", 0.25)
STATISTICS = {"mean": MEAN, "iqm": IQM}


@dataclass(frozen=True)
class Estimate:
    """An estimate with the variance of its error and its degrees of freedom, arrays of one shape."""

    value: Floats
    variance: Floats
    freedom: Floats

    def interval(self) -> tuple[Floats, Floats]:
        """The 95 % interval."""
        from scipy.special import stdtrit  # type: ignore[import-untyped]

        reach = stdtrit(self.freedom, LEVELS[1]) * np.sqrt(self.variance)
        return self.value - reach, self.value + reach

    def p_value(self) -> float | None:
        """The two-sided p-value of the hypothesis that a scalar estimate is 0; None if its variance is 0."""
        from scipy.special import stdtr

        if not self.variance > 0:
            return None
        return float(2 * stdtr(self.freedom, -abs(self.value) / np.sqrt(self.variance)))


def estimate_from_summary(value: float, deviation: float | None = None, count: int = 1) -> Estimate:
    """The mean of `count` numbers, from the mean itself and their standard deviation; exact without one."""
    variance = 0.0 if deviation is None else deviation**2 / count
    return Estimate(np.asarray(value), np.asarray(variance), np.asarray(max(1.0, count - 1.0)))


def combination(weights: Sequence[float], parts: Sequence[Estimate]) -> Estimate:
    """A weighted sum of independent estimates, with the degrees of freedom of Welch and Satterthwaite."""
    value = sum(weight * part.value for weight, part in zip(weights, parts, strict=True))
    variances = [weight**2 * part.variance for weight, part in zip(weights, parts, strict=True)]
    variance = np.asarray(sum(variances))
    uncertain = np.asarray(sum(own**2 / part.freedom for own, part in zip(variances, parts, strict=True)))
    freedom = np.divide(variance**2, uncertain, out=np.ones_like(uncertain), where=uncertain > 0)
    return Estimate(np.asarray(value), variance, freedom)


def difference(one: Estimate, other: Estimate) -> Estimate:
    """`one` minus `other`; for two means, this is Welch's comparison."""
    return combination((1.0, -1.0), (one, other))


def estimate(strata: Sequence[Floats], statistic: Statistic = MEAN) -> Estimate:
    """The statistic of all runs together, given strata (S_m, ...) of two or more runs, one stratum for each task.

    The variance of a trimmed mean is that of the mean after runs beyond the cuts are moved to the cuts.
    """
    runs = np.sort(np.concatenate(strata), axis=0)
    count, cut = len(runs), statistic.cut(len(runs))
    left = count - 2 * cut
    means = [_mean(np.clip(stratum, runs[cut], runs[count - 1 - cut])) for stratum in strata]
    spread = combination([len(stratum) / left for stratum in strata], means)
    few = (left - 1) / (count - 1)  # Yuen's correction; 1 for a mean
    variance = spread.variance * left / (few * count)
    return Estimate(statistic(runs), variance, np.maximum(1.0, few * spread.freedom))


def _mean(samples: Floats) -> Estimate:
    freedom = len(samples) - 1.0
    value = samples.mean(0)
    return Estimate(value, samples.var(0, ddof=1) / len(samples), np.full_like(value, freedom))


def are_enough(strata: Sequence[Floats]) -> bool:
    """Whether there are enough runs for an interval: two for each task, and `FEWEST` in total."""
    return min(map(len, strata)) > 1 and sum(map(len, strata)) >= FEWEST


def bounds(strata: Sequence[Floats], statistic: Statistic = MEAN) -> tuple[Floats, Floats]:
    """The 95 % interval of a statistic, or the extremes of too few runs: strata (S_m, ...) -> low (...), high (...)."""
    if are_enough(strata):
        return estimate(strata, statistic).interval()
    runs = np.concatenate(strata)
    return runs.min(0), runs.max(0)


def profile(scores: Floats, thresholds: Floats) -> Floats:
    """The share of runs whose score is above each threshold: (S,), (P,) -> (P,)."""
    return np.asarray((scores[:, None] > thresholds).mean(0))


def profile_interval(scores: Floats, thresholds: Floats) -> tuple[Floats, Floats]:
    """The 95 % Clopper-Pearson interval of each share of the profile: (S,), (P,) -> low (P,), high (P,).

    It assumes equal probabilities, and also covers runs of several tasks, whose shares vary less (Hoeffding 1956).
    """
    from scipy.special import betaincinv

    above = (scores[:, None] > thresholds).sum(0)
    below = len(scores) - above
    low = np.where(above > 0, betaincinv(np.maximum(above, 1), below + 1, LEVELS[0]), 0.0)
    high = np.where(below > 0, betaincinv(above + 1, np.maximum(below, 1), LEVELS[1]), 1.0)
    return low, high


def improvement_probability(one: Floats, other: Floats) -> tuple[float, float, float]:
    """The probability that a run of `one` (S,) beats one of `other` (T,), ties counting half, and its 95 % interval.

    This is Newcombe's fifth method, with the quantile of Student's t for the smaller number of runs. The interval has a
    positive width even if all runs of one are above all of the other.
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
    """The mean over tasks of probabilities of improvement, and its interval from theirs (MOVER)."""
    found, low, high = np.array(parts).T
    centre = float(found.mean())
    below, above = (float(np.linalg.norm(found - end)) / len(parts) for end in (low, high))
    return centre, centre - below, centre + above


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """The p-values after Holm's correction for multiple tests; None stands for no test."""
    tests = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(tests):
        largest = max(largest, min(1.0, (len(tests) - rank) * p))
        corrected[place] = largest
    return corrected


def trailing_mean(values: Floats, width: int) -> Floats:
    """The mean of each value and up to `width` - 1 values before it: (I,) -> (I,)."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts))


def steps_to(threshold: float, steps: Floats, values: Floats) -> float:
    """The first of the steps (I,) at which the value (I,) reaches the threshold; infinity if none does."""
    reached = np.flatnonzero(values >= threshold)
    return float(steps[reached[0]]) if len(reached) else math.inf


def bin_means(x: Floats, y: Floats, edges: Floats) -> Floats:
    """The mean of y (I,) in each bin (edges[p], edges[p + 1]] of x (I,) -> (P,); NaN for empty bins."""
    there = ~np.isnan(y)
    places = np.searchsorted(edges[1:-1], x[there])
    counts = np.bincount(places, minlength=len(edges) - 1)
    sums = np.bincount(places, weights=y[there], minlength=len(edges) - 1)
    means: Floats = np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)
    return means
