"""Vine sampling: branches leave from where trunks were, run as the policy says, and leave no trace in the trunks."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import probes  # noqa: F401  registers the probe environments
import pytest
import torch
from conftest import built
from exactness import exactly

from trpo_cli.errors import ConfigError
from trpo_cli.models.critics import ZeroCritic
from trpo_cli.parts import Parts
from trpo_cli.returns import monte_carlo
from trpo_cli.samplers.vine import Branches

SMALL = ("sampler=vine", "sampler.num_envs=4", "sampler.num_states=6", "sampler.branch_length=20")


def vine(env: str, *overrides: str, steps: int = 1000) -> Parts:
    task = ("env=gym", f"env.id={env}") if env.startswith("Probe/") else (f"env={env}",)
    return built(*task, *SMALL, f"sampler.steps_per_iteration={steps}", *overrides)


def collected(parts: Parts) -> Branches:
    sampler: Any = parts.sampler
    sample: Branches = sampler.collect(parts.policy)
    return sample


def test_branches_leave_from_states_of_the_trunk() -> None:
    sample = collected(vine("CartPole-v1"))
    visited = sample.trunk.observation.flatten(0, 1)
    age = sample.trunk.time.flatten()
    for job in range(24):
        here = (visited == sample.branch.observation[0, job]).all(-1)
        assert here.sum() == 1
        assert age[here] == sample.branch.time[0, job]
    roots = sample.branch.observation[0].view(6, 4, -1)
    assert (roots == roots[:, :1]).all()
    assert len(roots[:, 0].unique(dim=0)) == 6


def test_a_branch_is_what_the_environment_does_from_there() -> None:
    """Set up by hand in a CartPole of its own, with the recorded actions."""
    branch = collected(vine("CartPole-v1")).branch
    env: Any = gymnasium.make("CartPole-v1").unwrapped
    lengths = set()
    for job in range(24):
        env.reset(seed=0)
        env.state = tuple(branch.observation[0, job].double().tolist())
        for t in range(20):
            seen, reward, terminated, _, _ = env.step(int(branch.action[t, job, 0]))
            assert reward == branch.reward[t, job]
            assert terminated == branch.terminated[t, job]
            if terminated:
                break
            following = branch.observation[t + 1, job] if t < 19 else branch.last_observation[job]
            np.testing.assert_allclose(seen, following, atol=1e-5)
        lengths.add(t + 1)
        assert not branch.reward[t + 1 :, job].any()
    assert len(lengths) > 3
    assert 20 in lengths


def test_the_trunks_go_on_as_if_nothing_had_been() -> None:
    parts = vine("Hopper-v4", "env.normalize_observation=false")
    first, second = collected(parts), collected(parts)
    assert torch.equal(second.trunk.observation[0], first.trunk.last_observation)
    ended = (first.trunk.terminated | first.trunk.truncated)[-1]
    assert torch.equal(second.trunk.time[0], torch.where(ended, 0, first.trunk.time[-1] + 1))


def test_branches_draw_nothing_from_the_generators_of_the_trunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the slippery ice will do next is the same before the branches and after them."""
    parts = vine("FrozenLake-v1")
    sampler: Any = parts.sampler
    branches, everywhere, before = sampler._branches, np.arange(4), []

    def watched(*arguments: Any) -> Any:
        before.extend(sampler.environments.save(everywhere))
        return branches(*arguments)

    monkeypatch.setattr(sampler, "_branches", watched)
    collected(parts)
    after = sampler.environments.save(everywhere)
    np.testing.assert_equal(after, before)


def test_every_simulator_step_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = vine("CartPole-v1", "sampler.num_envs=16")  # 24 branches: in the second round eight environments idle
    envs, steps = parts.environments, 0
    step = envs.step

    def counted(action: Any) -> Any:
        nonlocal steps
        steps += envs.num_envs
        return step(action)

    monkeypatch.setattr(envs, "step", counted)
    sample = collected(parts)
    assert parts.sampler.env_steps == steps
    assert sample.trunk.reward.shape == (22, 16)  # 1000 less 2 rounds of 16 * 20, over 16 trunks
    assert steps <= 1000


@pytest.mark.parametrize("change", ["sampler.num_threads=3", "sampler.vectorization=sync"])
def test_threads_and_vectorization_change_nothing(change: str) -> None:
    one, other = (collected(vine("Hopper-v4", x)) for x in ("sampler.num_threads=1", change))
    for a, b in ((one.trunk, other.trunk), (one.branch, other.branch)):
        assert exactly(dict(vars(a)), dict(vars(b)))


def test_branches_of_a_state_share_their_noise() -> None:
    """With one action tried again and again, they are one and the same, slippery ice or not."""
    overrides = ("policy=tabular", "sampler.proposal=uniform", "sampler.actions_per_state=8")
    branch = collected(vine("FrozenLake-v1", *overrides, steps=2000)).branch
    for state in range(6):
        jobs = range(8 * state, 8 * state + 8)
        for a in jobs:
            for b in jobs:
                if branch.action[0, a] == branch.action[0, b]:
                    assert torch.equal(branch.observation[:, a], branch.observation[:, b])
    alone = collected(vine("FrozenLake-v1", *overrides, "sampler.common_random_numbers=false", steps=2000)).branch
    assert len(alone.observation.transpose(0, 1).flatten(1).unique(dim=0)) > len(
        branch.observation.transpose(0, 1).flatten(1).unique(dim=0)
    )


@pytest.mark.parametrize(
    ("overrides", "actions", "log_weight"),
    [
        (("sampler.actions_per_state=all",), [0, 1], [0.0, 0.0]),  # the first policy is nearly uniform, and so is q
        (("sampler.proposal=policy", "sampler.actions_per_state=3"), None, [0.0, 0.0, 0.0]),
        (("sampler.actions_per_state=3",), None, [0.0, 0.0, 0.0]),
    ],
)
def test_what_is_proposed(overrides: tuple[str, ...], actions: list[int] | None, log_weight: list[float]) -> None:
    parts = vine("CartPole-v1", *overrides)
    sample = collected(parts)
    expected = torch.tensor(log_weight).expand(6, -1)
    exact = "sampler.proposal=policy" in overrides
    torch.testing.assert_close(sample.log_weight, expected, atol=0 if exact else 0.05, rtol=0)
    first = sample.branch.action[0].view(6, -1)
    if actions is not None:
        assert first.tolist() == [actions] * 6
    else:
        assert set(first.flatten().tolist()) == {0, 1}


def test_q_is_the_discounted_return_of_the_branch() -> None:
    """In TwoSteps only the last step pays, so that Q is gamma from the first observation, and 1 from the second."""
    less = ("sampler.actions_per_state=2", "algo.normalize_advantage=false")
    parts = vine("Probe/TwoSteps-v0", "algo.gamma=0.5", *less)
    algorithm: Any = parts.algorithm
    batch, _ = algorithm.estimate(collected(parts))
    torch.testing.assert_close(batch.return_, 0.5 + 0.5 * batch.observation[:, 0])
    torch.testing.assert_close(batch.advantage, batch.return_[:, None].expand(-1, 2))


def test_a_critic_closes_what_was_cut_off() -> None:
    """Three rewards, and gamma^3 V beyond; without asking for one, there is none."""
    parts = vine("Pendulum-v1", "algo.gamma=0.9", "sampler.branch_length=3")
    assert isinstance(parts.critic, ZeroCritic)
    sample = collected(parts)
    estimates, _ = sample.estimate(lambda observation: torch.full((len(observation),), 7.0), monte_carlo, 0.9, 1.0)
    reward = sample.branch.reward.view(3, 6, 4)
    q = reward[0] + 0.9 * reward[1] + 0.81 * reward[2] + 0.9**3 * 7.0
    torch.testing.assert_close(estimates.advantage + 7.0, q)
    torch.testing.assert_close(estimates.return_, q.mean(1))


@pytest.mark.parametrize(
    ("env", "overrides", "said"),
    [
        ("Hopper-v4", ("sampler.actions_per_state=all",), "sampler.actions_per_state: all is for discrete actions"),
        ("Hopper-v4", ("sampler.proposal=uniform",), "sampler.proposal: uniform is for discrete actions"),
        (
            "CartPole-v1",
            ("sampler.actions_per_state=1", "algo/surrogate=self_normalised"),
            "self_normalised weighs several actions .* tries one",
        ),
        ("CartPole-v1", ("algo/surrogate=full_action_sum",), "algo.surrogate: full_action_sum weighs all actions"),
        ("CartPole-v1", ("sampler.steps_per_iteration=480",), "at least 488 is needed"),
        (
            "CartPole-v1",
            ("sampler.vectorization=async",),
            "sampler.vectorization: got 'async'; it should be 'auto', 'native' or 'sync'",
        ),
    ],
)
def test_what_does_not_fit_is_said(env: str, overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        vine(env, *overrides)
