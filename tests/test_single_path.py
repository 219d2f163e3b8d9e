"""Single-path sampling: every step where it belongs, ends told apart, episodes carried over, faults named."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
import old_pictures  # noqa: F401  registers an environment
import probes  # noqa: F401  registers the probe environments
import pytest
import screens  # noqa: F401  registers an environment
import torch
from conftest import built
from torch import Tensor

from trpo_cli.data import Frames, Tensors
from trpo_cli.errors import ConfigError, EnvironmentFault
from trpo_cli.parts import Parts
from trpo_cli.samplers.episodes import EpisodeStatistics
from trpo_cli.samplers.single_path import SinglePath

RAW = ("env.normalize_observation=false", "env.normalize_reward=false")


def parts(env_id: str, num_envs: int, steps: int, *more: str) -> Parts:
    sizes = (f"sampler.num_envs={num_envs}", f"sampler.steps_per_iteration={steps}")
    return built("env=gym", f"env.id={env_id}", *sizes, *more)


def test_a_rollout_is_what_a_plain_loop_sees() -> None:
    """Replay the actions in environments made by hand: observations, rewards and ends agree, through resets."""
    run = parts("CartPole-v1", 3, 300, "env.max_episode_steps=20")
    assert isinstance(run.sampler, SinglePath)
    rollouts = [run.sampler.collect(run.policy)[0] for _ in range(2)]
    action = torch.cat([r.action for r in rollouts])[..., 0]
    seeds = built_seeds(3)
    truncations = 0
    for i in range(3):
        env = gymnasium.make("CartPole-v1", max_episode_steps=20)
        observation, _ = env.reset(seed=seeds[i])
        time = 0
        for t in range(200):
            rollout, row = rollouts[t // 100], t % 100
            np.testing.assert_array_equal(rollout.observation[row, i], observation)
            assert rollout.time[row, i] == time
            observation, reward, terminated, truncated, _ = env.step(int(action[t, i]))
            time += 1
            assert rollout.reward[row, i] == reward
            assert rollout.terminated[row, i] == terminated
            assert rollout.truncated[row, i] == (truncated and not terminated)
            if rollout.truncated[row, i]:
                truncations += 1
                position = int(rollout.truncated[:row].sum() + rollout.truncated[row, :i].sum())
                np.testing.assert_array_equal(rollout.truncated_observation[position], observation)
            if terminated or truncated:
                observation, _ = env.reset()
                time = 0
            if row == 99:
                np.testing.assert_array_equal(rollout.last_observation[i], observation)
    assert truncations > 0


def built_seeds(count: int) -> list[int]:
    from trpo_cli.seeding import environment_seeds

    return environment_seeds(0, "environments", count)


def test_a_step_is_never_both_terminated_and_truncated() -> None:
    run = parts("Probe/Constant-v0", 2, 20, "env.max_episode_steps=1")
    (rollout,) = run.sampler.collect(run.policy)
    assert rollout.terminated.all()
    assert not rollout.truncated.any()
    assert rollout.truncated_observation.shape == (0, 1)


def test_statistics_are_learnt_between_rollouts_only() -> None:
    run = parts("Pendulum-v1", 2, 40, "env.normalize_observation=true", "env.normalize_reward=true")
    (first,), (second,) = run.sampler.collect(run.policy), run.sampler.collect(run.policy)
    assert first.observation[..., :2].abs().max() <= 1  # cosine and sine, as they are
    mean, variance = first.observation.flatten(0, 1).mean(0), first.observation.flatten(0, 1).var(0, correction=0)
    np.testing.assert_allclose(run.normalizer.moments.count, 80)
    raw = second.observation * (variance + 1e-8).sqrt() + mean
    assert raw[..., :2].abs().max() <= 1 + 1e-5
    torch.testing.assert_close(raw[0], first.last_observation, atol=1e-4, rtol=1e-4)


def test_returns_are_unnormalised_and_over_the_last_hundred_episodes() -> None:
    run = parts("Probe/TwoSteps-v0", 2, 1000, "env.normalize_reward=true")
    run.sampler.collect(run.policy)
    metrics = run.sampler.metrics()
    assert metrics["rollout/episode_return_mean"] == 1.0
    assert metrics["rollout/episode_length_mean"] == 2.0
    assert metrics["rollout/episodes"] == 500
    assert run.sampler.env_steps == 1000


def test_before_the_first_end_there_is_no_return() -> None:
    run = parts("CartPole-v1", 2, 2)
    run.sampler.collect(run.policy)
    assert run.sampler.metrics()["rollout/episode_return_mean"] is None


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("reward", r"Probe/Faulty-v0: reward is not finite at step 51 of environment 0: nan"),
        ("observation", r"Probe/Faulty-v0: observation is not finite at step 51 of environment 0: \[inf\]"),
        ("raise", r"Probe/Faulty-v0 raised at step 51 of environment 0: RuntimeError: the simulator fell over"),
    ],
)
def test_faults_name_environment_step_and_values(fault: str, said: str) -> None:
    run = parts("Probe/Faulty-v0", 2, 200, f"env.kwargs={{fault: {fault}}}")
    with pytest.raises(EnvironmentFault, match=said):
        run.sampler.collect(run.policy)


def test_an_action_that_is_not_finite_is_a_fault() -> None:
    run = parts("Pendulum-v1", 2, 20)
    with torch.no_grad():
        run.policy.log_std.fill_(float("nan"))
    with pytest.raises(EnvironmentFault, match=r"Pendulum-v1: action is not finite at step 1 of environment 0"):
        run.sampler.collect(run.policy)


def test_steps_that_do_not_divide_are_refused_with_the_nearest_that_do() -> None:
    with pytest.raises(ConfigError, match=r"steps_per_iteration: 100 is not a multiple of sampler.num_envs = 3; 99 is"):
        parts("CartPole-v1", 3, 100)


def test_the_recent_return_is_of_the_episodes_that_ended_in_this_iteration() -> None:
    """The mean of the last hundred reaches back further; an iteration in which none ends has no recent return."""
    statistics = EpisodeStatistics(2)
    ends = np.array([[False, True], [True, False]])
    statistics.add(np.array([[1.0, 2.0], [3.0, 0.0]]), ends)
    assert statistics.metrics()["rollout/recent_return_mean"] == 3.0  # 2 and 1 + 3
    statistics.add(np.array([[5.0, 10.0], [6.0, 0.0]]), ends)
    assert statistics.metrics()["rollout/recent_return_mean"] == 10.5  # 0 + 10 and 5 + 6
    assert statistics.metrics()["rollout/episode_return_mean"] == 6.75
    statistics.add(np.ones((2, 2)), np.zeros((2, 2), dtype=bool))
    assert statistics.metrics()["rollout/recent_return_mean"] is None
    assert statistics.metrics()["rollout/episode_return_mean"] == 6.75


def lose_lives(run: Parts, lost: list[bool]) -> None:
    """Have the backend say after each of the next steps whether a life was lost, in every environment."""
    backend: Any = run.environments[0]._envs
    step, losses = type(backend).step, iter(lost)

    def stepping(actions: Any) -> Any:
        backend.lost = np.full(backend.num_envs, next(losses))
        return step(backend, actions)

    backend.step = stepping


def test_a_lost_life_ends_an_episode_for_the_learner_alone() -> None:
    """Games of four steps; a life is lost in the middle, together with the time limit, and last of all."""
    run, other = (parts("OldPictures-v0", 1, 6, "env.max_episode_steps=4", "env.stack=2") for _ in range(2))
    lose_lives(run, [False, True, False, True, False, True])
    (first,) = run.sampler.collect(run.policy)
    assert first.terminated[:, 0].tolist() == [False, True, False, True, False, True]
    assert not first.truncated.any()
    assert len(first.truncated_observation) == 0
    assert first.time[:, 0].tolist() == [0, 1, 0, 1, 0, 1]
    assert run.sampler.metrics()["rollout/episode_return_mean"] == 4.0
    assert run.sampler.metrics()["rollout/episodes"] == 1
    assert first.observation.index[:, 0].tolist() == [[1, 1], [1, 2], [2, 3], [3, 4], [5, 5], [5, 6]]  # of whole games

    other.load_state_dict(copy.deepcopy(run.state_dict()))
    for each in (run, other):
        lose_lives(each, [False] * 6)
        (second,) = each.sampler.collect(run.policy)
        assert second.time[:, 0].tolist() == [0, 1, 0, 1, 2, 3]
        assert second.truncated[:, 0].tolist() == [False, True, False, False, False, True]
        assert second.observation.index[:3, 0].tolist() == [[0, 1], [1, 2], [3, 3]]
        assert each.sampler.metrics()["rollout/episodes"] == 3


@pytest.mark.parametrize("normalised", [False, True])
def test_the_learner_may_be_given_signs_of_rewards(normalised: bool) -> None:
    run = parts("Pendulum-v1", 2, 400, "env.sign_reward=true", f"env.normalize_reward={normalised}")
    (rollout,) = run.sampler.collect(run.policy)
    assert (rollout.reward < 0).all()
    assert len(rollout.reward.unique()) == 1
    if not normalised:
        assert (rollout.reward == -1).all()
    assert run.sampler.metrics()["rollout/episode_return_mean"] < -400


@pytest.mark.parametrize("dtype", ["uint8", "bool"])
def test_frames_of_stacked_images_are_stored_once(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read from them is what the policy saw, through ends and from one rollout to the next."""
    run = parts("Screens-v0", 2, 34, "env.stack=4", f"env.kwargs={{shape: [3, 4, 2], dtype: {dtype}}}")
    actor, seen = run.policy.actor, []

    def watching() -> Any:
        act = actor()

        def acting(observation: Any, *more: Any) -> Any:
            seen.append(observation.copy())
            return act(observation, *more)

        return acting

    monkeypatch.setattr(run.policy, "actor", watching)
    rollouts = [run.sampler.collect(run.policy)[0] for _ in range(3)]
    assert any(rollout.terminated.any() for rollout in rollouts)
    for number, rollout in enumerate(rollouts):
        assert isinstance(rollout.observation, Frames)
        assert rollout.observation.frame.dtype == getattr(torch, dtype)
        assert len(rollout.observation.frame) == (17 + 3) * 2
        np.testing.assert_array_equal(rollout.observation.read(), np.stack(seen[17 * number : 17 * (number + 1)]))


def test_a_batch_of_images_takes_little_more_than_its_frames() -> None:
    run: Any = parts("Screens-v0", 2, 640, "env.stack=4", "policy=linear", "critic=zero")
    samples = run.sampler.collect(run.policy)
    batch, lesson = run.algorithm.estimate(samples)
    held = {one.data_ptr(): one.nbytes() for one in map(Tensor.untyped_storage, tensors_of(samples, batch, lesson))}
    assert sum(held.values()) < 1.05 * 640 * 84 * 84


def tensors_of(*records: Any) -> list[Tensor]:
    """All tensors in records and lists, and in the records and lists that these hold."""
    values = [value for one in records for value in (one if isinstance(one, list | tuple) else vars(one).values())]
    inner = [value for value in values if isinstance(value, Tensors | list)]
    return [value for value in values if isinstance(value, Tensor)] + (tensors_of(*inner) if inner else [])
