"""The statistics of a report, against numbers worked out by hand, and intervals that cover what they should."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trpo_cli.statistics import (
    Statistic,
    interval,
    iqm,
    mean,
    profile,
    profile_interval,
    steps_to,
    stretches,
    trailing_mean,
)


def test_the_interquartile_mean_is_that_of_the_middle_half() -> None:
    assert iqm(np.array([100.0, 1, 2, 3, 4, 5, 6, -100])) == (2 + 3 + 4 + 5) / 4
    assert iqm(np.array([9.0, 0, 3])) == 4
    np.testing.assert_array_equal(iqm(np.array([[9.0, 1], [2, 2], [4, 3], [0, 99]])), [3, 2.5])


def test_the_profile_is_the_share_above() -> None:
    scores = np.array([0.2, 0.5, 0.5, 1.0])
    np.testing.assert_array_equal(profile(scores, np.array([0.0, 0.2, 0.5, 0.9, 1.0])), [1, 0.75, 0.25, 0.25, 0])
    low, high = profile_interval([scores], np.array([0.0, 0.5, 1.0]))
    np.testing.assert_array_equal((low[0], high[0], low[2], high[2]), (1, 1, 0, 0))
    assert low[1] == 0
    assert 0.5 <= high[1] <= 0.75


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
    np.testing.assert_array_equal(stretches(x, y, np.array([0.0, 2, 4, 6, 8])), [1, 3, np.nan, 5])


def test_strata_keep_their_number_of_runs() -> None:
    """Two tasks of constant scores: no resample can change their mean; without strata it would."""
    low, high = interval([np.zeros(4), np.ones(4)])
    assert low == high == 0.5


@pytest.mark.parametrize("statistic", [mean, iqm])
@pytest.mark.parametrize("size", [5, 20])
def test_the_interval_covers_the_centre(size: int, statistic: Statistic) -> None:
    """Of 200 samples some 90 % hold the true centre: the percentile bootstrap is a little narrow for few seeds."""
    samples = np.random.default_rng(1).normal(3.0, 1.0, (size, 200))
    low, high = interval([samples], statistic)
    assert 0.78 < np.mean((low < 3) & (high > 3)) < 0.99


def test_the_interval_of_two_tasks_covers_their_mean() -> None:
    generator = np.random.default_rng(2)
    low, high = interval([generator.normal(1.0, 1.0, (10, 200)), generator.normal(5.0, 2.0, (10, 200))])
    assert 0.85 < np.mean((low < 3) & (high > 3)) < 0.99
