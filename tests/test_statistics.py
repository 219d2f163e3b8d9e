"""The statistics of a report, against numbers worked out by hand or by SciPy; intervals cover what they should.

Coverage is measured by drawing the runs thousands of times: of values as returns are when all goes well (normal), when
a few runs get far ahead (exponential), and when one does (log-normal).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy import stats

from trpo_cli.statistics import (
    IQM,
    MEAN,
    Floats,
    Statistic,
    are_enough,
    bin_means,
    bounds,
    combination,
    difference,
    estimate,
    estimate_from_summary,
    holm,
    improvement_probability,
    mean_improvement,
    profile,
    profile_interval,
    steps_to,
    trailing_mean,
)

Draw = Callable[[np.random.Generator, tuple[int, ...]], Floats]
DRAWS: dict[str, Draw] = {
    "normal": lambda generator, shape: generator.normal(3.0, 1.0, shape),
    "exponential": lambda generator, shape: generator.exponential(1.0, shape),
    "log-normal": lambda generator, shape: generator.lognormal(0.0, 1.0, shape),
}


def covered(low: Floats, high: Floats, truth: float) -> float:
    """Of how many draws the interval holds the truth."""
    return float(np.mean((low <= truth) & (truth <= high)))


def centre(distribution: str, statistic: Statistic) -> float:
    """What the statistic is of endlessly many runs."""
    return float(statistic(DRAWS[distribution](np.random.default_rng(9), (1_000_000,))))


def test_the_interquartile_mean_is_that_of_the_middle_half() -> None:
    assert IQM(np.array([100.0, 1, 2, 3, 4, 5, 6, -100])) == (2 + 3 + 4 + 5) / 4
    assert IQM(np.array([9.0, 0, 3])) == 4
    np.testing.assert_array_equal(IQM(np.array([[9.0, 1], [2, 2], [4, 3], [0, 99]])), [3, 2.5])


COVERAGE = {  # of 95 % intervals, at least: of the mean, and of the interquartile mean where it leaves any run out
    ("normal", 2): (0.94,),
    ("normal", 3): (0.94,),
    ("normal", 5): (0.94, 0.92),
    ("normal", 10): (0.94, 0.93),
    ("exponential", 2): (0.89,),
    ("exponential", 3): (0.87,),
    ("exponential", 5): (0.86, 0.90),
    ("exponential", 10): (0.89, 0.92),
    ("log-normal", 5): (0.80, 0.90),
    ("log-normal", 10): (0.82, 0.91),
}


@pytest.mark.parametrize(("distribution", "runs"), COVERAGE)
def test_intervals_cover(distribution: str, runs: int) -> None:
    """Percentiles of resampled runs held the mean of normal values in 84 % of five and 88 % of ten."""
    samples = DRAWS[distribution](np.random.default_rng(1), (runs, 4000))
    for statistic, least in zip((MEAN, IQM), COVERAGE[distribution, runs], strict=False):
        share = covered(*estimate([samples], statistic).interval(), centre(distribution, statistic))
        assert least <= share <= 0.965


def test_of_fewer_than_five_runs_one_sees_min_and_max() -> None:
    samples = np.array([[3.0, 1.0], [5.0, 2.0], [4.0, 9.0], [4.0, 0.0]])
    low, high = bounds([samples])
    np.testing.assert_array_equal((low, high), ([3, 0], [5, 9]))
    assert are_enough([np.zeros(5)])
    assert not are_enough([np.zeros(4)])
    assert are_enough([np.zeros(2)] * 3)
    assert not are_enough([np.zeros(9), np.zeros(1)]), "of one run nobody knows how much it varies"


@pytest.mark.parametrize("statistic", [MEAN, IQM])
def test_the_interval_is_that_of_scipy(statistic: Statistic) -> None:
    """Of a mean; and of differences, trimmed ones too, which are Yuen's."""
    generator = np.random.default_rng(3)
    one, other = generator.normal(0, 1, 7), generator.normal(1, 3, 12)
    expected = stats.ttest_ind(one, other, equal_var=False, trim=statistic.trimmed)
    gain = difference(estimate([one], statistic), estimate([other], statistic))
    assert gain.p_value() == pytest.approx(expected.pvalue)
    np.testing.assert_allclose(gain.interval(), expected.confidence_interval())
    alone = stats.ttest_1samp(one, 0.5)
    np.testing.assert_allclose(estimate([one]).interval(), alone.confidence_interval())
    assert difference(estimate([one]), estimate_from_summary(0.5)).p_value() == pytest.approx(alone.pvalue)


def test_what_is_published_is_known_by_its_deviation() -> None:
    one = np.array([3.0, 4.0, 6.0, 5.0, 9.0])
    expected = stats.ttest_ind_from_stats(one.mean(), one.std(ddof=1), 5, 2.5, 1.5, 10, equal_var=False)
    assert difference(estimate([one]), estimate_from_summary(2.5, 1.5, 10)).p_value() == pytest.approx(expected.pvalue)


def test_where_nothing_varies_there_is_no_test() -> None:
    gain = difference(estimate([np.full(5, 1000.0)]), estimate_from_summary(1000.0))
    assert gain.p_value() is None
    np.testing.assert_array_equal(gain.interval(), (0, 0))


def test_strata_keep_their_number_of_runs() -> None:
    """Two tasks of constant scores: their mean does not vary; without strata it would."""
    low, high = bounds([np.zeros(4), np.ones(4)])
    assert low == high == 0.5


TASKS = [(2, 5), (3, 2), (9, 2), (9, 3), (9, 5)]  # so many, of so many runs


def scores(tasks: int, runs: int, unlike: float, draws: int, distribution: str = "normal") -> list[Floats]:
    """Scores of tasks whose centres differ, and whose deviations do by as much as the factor `unlike`."""
    generator = np.random.default_rng(4)
    widths = np.geomspace(0.05, 0.05 * unlike, tasks)
    return [m / tasks + width * DRAWS[distribution](generator, (runs, draws)) for m, width in enumerate(widths)]


@pytest.mark.parametrize(("tasks", "runs"), TASKS)
def test_the_interval_of_several_tasks_covers(tasks: int, runs: int) -> None:
    for unlike in (1.0, 10.0):
        for statistic, least in ((MEAN, 0.94), (IQM, 0.87)):  # where two tasks share the middle half, it covers least
            truth = float(statistic(np.concatenate(scores(tasks, 50_000, unlike, 1))[:, 0]))
            assert covered(*estimate(scores(tasks, runs, unlike, 2000), statistic).interval(), truth) >= least


@pytest.mark.slow
@pytest.mark.parametrize(("tasks", "runs"), [*TASKS, (3, 5), (9, 10)])
@pytest.mark.parametrize(("distribution", "leasts"), [("exponential", (0.86, 0.87)), ("log-normal", (0.80, 0.82))])
def test_the_interval_of_several_skewed_tasks(
    tasks: int, runs: int, distribution: str, leasts: tuple[float, ...]
) -> None:
    for unlike in (1.0, 10.0):
        for statistic, least in zip((MEAN, IQM), leasts, strict=True):
            truth = float(statistic(np.concatenate(scores(tasks, 200_000, unlike, 1, distribution))[:, 0]))
            drawn = scores(tasks, runs, unlike, 20_000, distribution)
            assert covered(*estimate(drawn, statistic).interval(), truth) >= least


def test_the_profile_is_the_share_above() -> None:
    values = np.array([0.2, 0.5, 0.5, 1.0])
    np.testing.assert_array_equal(profile(values, np.array([0.0, 0.2, 0.5, 0.9, 1.0])), [1, 0.75, 0.25, 0.25, 0])
    low, high = profile_interval(values, np.array([0.0, 0.5, 1.0]))
    for place, above in enumerate((4, 1, 0)):
        np.testing.assert_allclose((low[place], high[place]), stats.binomtest(above, 4).proportion_ci())


def exact_coverage(chances: Sequence[float]) -> float:
    """Of the interval of a share, where run i is above the threshold with chance i: over all that may happen."""
    happens = np.array([1.0])
    for chance in chances:
        happens = np.convolve(happens, [1 - chance, chance])
    truth, total = float(np.mean(chances)), len(chances)
    counts = [np.arange(total) < above for above in range(total + 1)]
    inside = [profile_interval(above.astype(float), np.array([0.5])) for above in counts]
    return float(sum(p for p, (low, high) in zip(happens, inside, strict=True) if low[0] <= truth <= high[0]))


def test_the_interval_of_a_profile_covers_whatever_the_tasks() -> None:
    for runs in (2, 3, 5, 10):
        assert min(exact_coverage([chance] * runs) for chance in np.linspace(0.01, 0.99, 25)) >= 0.95
        assert min(exact_coverage([0.1] * runs + [chance] * runs) for chance in np.linspace(0.01, 0.99, 25)) >= 0.95


def improvements(sizes: tuple[int, int], gap: float, draws: int, seed: int = 5) -> list[tuple[float, float, float]]:
    """The probability that a normal value is above another whose mean is lower by the gap, drawn often."""
    generator = np.random.default_rng(seed)
    pairs = [(generator.normal(gap, 1, sizes[0]), generator.normal(0, 1, sizes[1])) for _ in range(draws)]
    return [improvement_probability(one, other) for one, other in pairs]


def chance(gap: float) -> float:
    return 0.5 * (1 + math.erf(gap / 2))


def test_the_probability_of_improvement_counts_pairs() -> None:
    one, other = np.array([1.0, 2.0, 5.0, 5.0, 9.0]), np.array([2.0, 3.0, 4.0, 0.0, 1.0])
    expected = stats.mannwhitneyu(one, other).statistic / 25
    assert improvement_probability(one, other)[0] == pytest.approx(expected)
    found, low, high = improvement_probability(other + 100, one)
    assert (found, high) == (1, 1)
    assert 0.5 < low < 0.7, "five runs that are all above five others do not decide that it is always so"
    assert improvement_probability(one, one)[0] == 0.5


@pytest.mark.parametrize("sizes", [(5, 5), (5, 10)])
@pytest.mark.parametrize("gap", [0.0, 1.0, 2.0])
def test_the_interval_of_the_probability_of_improvement_covers(sizes: tuple[int, int], gap: float) -> None:
    _, low, high = np.array(improvements(sizes, gap, 400)).T
    assert covered(low, high, chance(gap)) >= 0.93


def test_the_mean_probability_of_improvement_covers() -> None:
    gaps = (0.0, 0.5, 2.0)
    drawn = zip(*(improvements((5, 5), gap, 300, seed) for seed, gap in enumerate(gaps)), strict=True)
    _, low, high = np.array([mean_improvement(parts) for parts in drawn]).T
    assert covered(low, high, float(np.mean([chance(gap) for gap in gaps]))) >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(5, 5), (5, 10), (10, 5), (10, 10)])
def test_differences_cover_whatever_the_deviations(sizes: tuple[int, int]) -> None:
    generator = np.random.default_rng(6)
    for width in (0.25, 1.0, 4.0):
        one, other = generator.normal(1, 1, (sizes[0], 20_000)), generator.normal(0, width, (sizes[1], 20_000))
        for statistic, least in ((MEAN, 0.94), (IQM, 0.91)):
            gain = difference(estimate([one], statistic), estimate([other], statistic))
            assert covered(*gain.interval(), 1.0) >= least
        pairs = [improvement_probability(one[:, draw], other[:, draw]) for draw in range(2000)]
        _, low, high = np.array(pairs).T
        truth = float(stats.norm.cdf(1 / math.hypot(1, width)))
        assert covered(low, high, truth) >= 0.91


def test_a_combination_adds_up() -> None:
    parts = [estimate([np.array([1.0, 3.0])]), estimate([np.array([10.0, 20.0])])]
    found = combination((0.5, 0.5), parts)
    assert found.value == 8.5
    assert found.variance == 0.25 * (1 + 25)
    assert found.freedom == pytest.approx(26**2 / (1 + 25**2))


def test_holm_corrects_step_by_step() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == [0.03, None, 0.06, 0.06]
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_smoothing_looks_back() -> None:
    np.testing.assert_allclose(trailing_mean(np.array([1.0, 3, 5, 7]), 2), [1, 2, 4, 6])
    np.testing.assert_allclose(trailing_mean(np.array([1.0, 3, 5, 7]), 1), [1, 3, 5, 7])
    np.testing.assert_allclose(trailing_mean(np.array([1.0, 3]), 9), [1, 2])


def test_the_first_step_at_the_threshold_counts() -> None:
    steps, values = np.array([10.0, 20, 30, 40]), np.array([1.0, 5, 4, 6])
    assert steps_to(5, steps, values) == 20
    assert steps_to(5.5, steps, values) == 40
    assert steps_to(7, steps, values) == math.inf


def test_means_over_stretches() -> None:
    x, y = np.array([1.0, 2, 3, 7]), np.array([1.0, np.nan, 3, 5])
    np.testing.assert_array_equal(bin_means(x, y, np.array([0.0, 2, 4, 6, 8])), [1, 3, np.nan, 5])
