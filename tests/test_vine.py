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
from trpo_cli.samplers.acting import Acting, Step
from trpo_cli.samplers.vine import Branches

SMALL = ("sampler=vine", "sampler.num_envs=4", "sampler.num_states=6", "sampler.branch_length=20")


def vine(env: str, *overrides: str, steps: int = 1000) -> Parts:
    task = ("env=gym", f"env.id={env}") if env.startswith("Probe/") else (f"env={env}",)
    return built(*task, *SMALL, f"sampler.steps_per_iteration={steps}", *overrides)


def collected(parts: Parts) -> Branches:
    sampler: Any = parts.sampler
    sample: Branches = sampler.collect(parts.policy)[0]
    return sample


ONE_EACH = "sampler.num_envs=24"  # environments: as many as branches, so that each plays one


def watched(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> tuple[Branches, list[Step], np.ndarray]:
    """What is collected, the steps of the branches, each in an environment of its own, and where they begin."""
    sampler: Any = parts.sampler
    acting, steps, begins = Acting.step, [], []

    def step(self: Acting, *arguments: Any, **named: Any) -> Step:
        if named.get("imposed") is not None:
            begins.append(self.environments.observation.copy())
            steps.append(acting(self, *arguments, **named))
            return steps[-1]
        return acting(self, *arguments, **named)

    monkeypatch.setattr(Acting, "step", step)
    sample: Branches = sampler.collect(parts.policy)[0]
    return sample, steps, begins[0]


def test_branches_leave_from_states_of_the_trunk(monkeypatch: pytest.MonkeyPatch) -> None:
    sample, _, begins = watched(vine("CartPole-v1", ONE_EACH), monkeypatch)
    chosen = sample.trunk.observation.flatten(0, 1)[sample.place]
    assert len(sample.place.unique()) == 6
    np.testing.assert_array_equal(chosen.repeat_interleave(4, dim=0), begins.astype(np.float32))
    estimates, _ = sample.estimate(lambda seen: torch.zeros(len(seen)), monte_carlo, 0.9, 0.5)
    assert torch.equal(estimates.observation, chosen)
    assert torch.equal(estimates.weight, 0.5 ** sample.trunk.time.flatten()[sample.place].float())


def test_a_branch_is_what_the_environment_does_from_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set up by hand in a CartPole of its own, with the same actions."""
    branch, steps, begins = watched(vine("CartPole-v1", ONE_EACH), monkeypatch)
    env: Any = gymnasium.make("CartPole-v1").unwrapped
    lengths = set()
    assert torch.equal(branch.action.flatten(0, 1), torch.from_numpy(steps[0].action))
    for job in range(24):
        env.reset(seed=0)
        env.state = tuple(begins[job].tolist())
        for t in range(20):
            seen, reward, terminated, _, _ = env.step(int(steps[t].action[job, 0]))
            assert reward == branch.reward[t, job]
            assert terminated == branch.terminated[t, job]
            if terminated:
                break
        np.testing.assert_allclose(seen, branch.last_observation[job], atol=1e-5)
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
        before.extend(parts.environments[0].save(everywhere))
        return branches(*arguments)

    monkeypatch.setattr(sampler, "_branches", watched)
    collected(parts)
    after = parts.environments[0].save(everywhere)
    np.testing.assert_equal(after, before)


def test_every_simulator_step_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = vine("CartPole-v1", "sampler.num_envs=16")  # 24 branches: in the second round eight environments idle
    envs, steps = parts.environments[0], 0
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
    for a, b in ((one, other), (one.trunk, other.trunk)):
        assert exactly({**vars(a), "trunk": None}, {**vars(b), "trunk": None})


def test_branches_of_a_state_share_their_noise() -> None:
    """With one action tried again and again, they are one and the same, slippery ice or not."""
    overrides = ("policy=tabular", "sampler.proposal=uniform", "sampler.actions_per_state=8")
    branch = collected(vine("FrozenLake-v1", *overrides, steps=2000))
    alone = collected(vine("FrozenLake-v1", *overrides, "sampler.common_random_numbers=false", steps=2000))

    def count_outcomes(sample: Branches) -> tuple[int, int]:
        """How many actions were tried in a state, and how many pairs of them and the cell reached."""
        cells = sample.last_observation.argmax(-1).view(6, 8)
        tried = [set(actions) for actions in sample.action[..., 0].tolist()]
        pairs = [
            set(zip(*row, strict=True)) for row in zip(sample.action[..., 0].tolist(), cells.tolist(), strict=True)
        ]
        return sum(map(len, tried)), sum(map(len, pairs))

    tried, outcomes = count_outcomes(branch)
    assert tried == outcomes
    tried, outcomes = count_outcomes(alone)
    assert tried < outcomes


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
    first = sample.action.view(6, -1)
    if actions is not None:
        assert first.tolist() == [actions] * 6
    else:
        assert set(first.flatten().tolist()) == {0, 1}


def test_q_is_the_discounted_return_of_the_branch() -> None:
    """In TwoSteps only the last step pays, so that Q is gamma from the first observation, and 1 from the second."""
    less = ("sampler.actions_per_state=2", "algo.normalize_advantage=false")
    parts = vine("Probe/TwoSteps-v0", "algo.gamma=0.5", *less)
    algorithm: Any = parts.algorithm
    batch, _ = algorithm.estimate([collected(parts)])
    torch.testing.assert_close(batch.return_, 0.5 + 0.5 * batch.states[0].observation[:, 0])
    torch.testing.assert_close(batch.advantage, batch.return_[:, None].expand(-1, 2))


def test_a_critic_closes_what_was_cut_off() -> None:
    """Three rewards, and gamma^3 V beyond; without asking for one, there is none."""
    parts = vine("Pendulum-v1", "algo.gamma=0.9", "sampler.branch_length=3")
    assert isinstance(parts.critic, ZeroCritic)
    sample = collected(parts)
    estimates, _ = sample.estimate(lambda observation: torch.full((len(observation),), 7.0), monte_carlo, 0.9, 1.0)
    reward = sample.reward.view(3, 6, 4)
    q = reward[0] + 0.9 * reward[1] + 0.81 * reward[2] + 0.9**3 * 7.0
    torch.testing.assert_close(estimates.advantage + 7.0, q)
    torch.testing.assert_close(estimates.return_, q.mean(1))


def test_a_lost_life_ends_a_branch() -> None:
    """As a death, with no value beyond, whatever the environment did then."""
    parts = vine("Pendulum-v1", "sampler.branch_length=3", "env.sign_reward=true")
    backend: Any = parts.environments[0]._envs
    sampler: Any = parts.sampler
    branches = sampler._branches

    def losing(*arguments: Any) -> Any:
        backend.lost = np.ones(4, dtype=bool)
        return branches(*arguments)

    sampler._branches = losing
    sample = collected(parts)
    assert not sample.trunk.terminated.any()
    assert sample.terminated[0].all()
    assert not sample.truncated.any()
    assert sample.reward.unique().tolist() == [-1.0, 0.0]
    assert torch.equal(sample.returns(torch.full((24,), 7.0), 0.9), torch.full((24,), -1.0))
    assert parts.sampler.env_steps == sample.trunk.reward.numel() + 24


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
