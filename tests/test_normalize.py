"""Running statistics: exact, and frozen where they must be."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import vectors

from trpo_cli.data import ObservationSpec
from trpo_cli.envs.normalize import ObservationNormalizer, RewardScaler, RunningMoments, Summary


def test_moments_of_parts_are_the_moments_of_the_whole() -> None:
    data = np.random.default_rng(0).normal(3, 2, (100, 4))
    moments = RunningMoments((4,))
    for part in np.split(data, [1, 7, 60]):
        moments.add(Summary.of(part))
    np.testing.assert_allclose(moments.mean, data.mean(0))
    np.testing.assert_allclose(moments.variance, data.var(0))


def test_observations_come_out_standard_and_clipped() -> None:
    data = np.random.default_rng(0).normal(3, 2, (50, 4, 2))
    normalizer = ObservationNormalizer(vectors(2), enabled=True, clip=1.5)
    np.testing.assert_array_equal(normalizer(np.ones((1, 2))), np.ones((1, 2), np.float32))
    normalizer.update(data)
    expected = ((data - data.mean((0, 1))) / data.std((0, 1))).clip(-1.5, 1.5)
    np.testing.assert_allclose(normalizer(data), expected, rtol=1e-5, atol=1e-6)


def test_statistics_of_images_are_kept_only_where_they_are_used() -> None:
    """A checkpoint that has them all the same, of an earlier version, is read."""
    spec = ObservationSpec((2, 8, 8), np.dtype(np.uint8), stack=2)
    off, on = (ObservationNormalizer(spec, enabled, 10.0) for enabled in (False, True))
    assert off.state_dict() == {"shape": [2, 8, 8]}
    assert off.is_identity
    on.update(np.random.default_rng(0).integers(0, 256, (20, 2, 8, 8), dtype=np.uint8))
    off.load_state_dict(on.state_dict())
    off.load_state_dict(off.state_dict())
    assert off.dtype == np.uint8
    with pytest.raises(KeyError):
        on.load_state_dict(off.state_dict())


@pytest.mark.parametrize(("sign", "learned"), [(True, [1.0, -1.0, 0.0]), (False, [4.0, -0.5, 0.0])])
def test_signs_of_rewards_may_stand_for_them(sign: bool, learned: list[float]) -> None:
    """They are taken before the deviation is, whose episodes they make up."""
    reward, done = np.array([[4.0], [-0.5], [0.0]]), np.array([[False], [True], [False]])
    plain = RewardScaler(1, 0.5, False, 10.0, sign)
    assert plain(reward, done)[:, 0].tolist() == plain.scaled(reward)[:, 0].tolist() == learned
    scaler = RewardScaler(1, 0.5, True, 10.0, sign)
    returns = np.array([learned[0], learned[0] / 2 + learned[1], 0.0])
    np.testing.assert_allclose(scaler(reward, done)[:, 0], np.array(learned) / returns.std(), rtol=1e-6)


def test_disabled_statistics_change_nothing() -> None:
    normalizer, scaler = ObservationNormalizer(vectors(2), enabled=False, clip=1.0), RewardScaler(2, 0.9, False, 1.0)
    data, reward = np.full((3, 2, 2), 5.0), np.full((3, 2), 5.0)
    normalizer.update(data)
    np.testing.assert_array_equal(normalizer(data), data)
    np.testing.assert_array_equal(scaler(reward, np.zeros((3, 2), bool)), reward)


def test_rewards_are_divided_by_the_deviation_of_the_discounted_return() -> None:
    reward = np.array([[1.0], [2.0], [3.0], [4.0]])
    done = np.array([[False], [True], [False], [False]])
    returns = np.array([1.0, 0.5 + 2, 3, 1.5 + 4])  # gamma 0.5, begun anew after step 1
    scaler = RewardScaler(1, 0.5, enabled=True, clip=10.0)
    np.testing.assert_allclose(scaler(reward, done), reward / returns.std(), rtol=1e-6)
    carried = scaler(np.array([[1.0]]), np.array([[False]]))
    assert carried.item() == pytest.approx(1 / np.array([*returns, 0.5 * 5.5 + 1]).std())


def test_statistics_survive_a_round_trip() -> None:
    first, second = ObservationNormalizer(vectors(3), True, 10.0), ObservationNormalizer(vectors(3), True, 10.0)
    first.update(np.random.default_rng(0).normal(size=(20, 2, 3)))
    second.load_state_dict(first.state_dict())
    data = np.random.default_rng(1).normal(size=(5, 3))
    np.testing.assert_array_equal(first(data), second(data))
    reward, done = np.random.default_rng(2).normal(size=(6, 2)), np.zeros((6, 2), bool)
    one, two = RewardScaler(2, 0.9, True, 10.0), RewardScaler(2, 0.9, True, 10.0)
    one(reward, done)
    two.load_state_dict(one.state_dict())
    np.testing.assert_array_equal(one(reward, done), two(reward, done))
