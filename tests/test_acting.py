"""All samplers and evaluations act in one way: with what the policy sees, what it remembers, and noise."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from conftest import built
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from trpo_cli.models.policies import Actor, Policy, on_cpu
from trpo_cli.play.episodes import Audience, Episodes, play
from trpo_cli.samplers.acting import Acting


class Pictures(gymnasium.Env[Any, Any]):
    """Shows random pixels for ten steps, and pays one for each step."""

    observation_space = spaces.Box(0, 255, (4, 3, 2), np.uint8)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        self.left = 10
        return self._seen(), {}

    def step(self, action: Any) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        self.left -= 1
        return self._seen(), 1.0, self.left == 0, False, {}

    def _seen(self) -> NDArray[np.uint8]:
        return self.np_random.integers(0, 256, (4, 3, 2), dtype=np.uint8)


gymnasium.register("Probe/Pictures-v0", Pictures)
PICTURES = ("env=gym", "env.id=Probe/Pictures-v0", "sampler.num_envs=2")


class Counting(Policy):
    """Acts by how many steps of the episode it remembers, modulo the number of actions."""

    memory_size = 1

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.distribution = policy.distribution

    def forward(self, observation: Tensor) -> Tensor:
        return torch.zeros(len(observation), self.distribution.network_size)

    def actor(self) -> Actor:
        def act(observation: Any, memory: Any, noise: Any) -> tuple[Any, Any]:
            return (memory % 3).astype(np.int64), memory + 1

        return act


def test_a_memory_grows_with_an_episode_and_is_empty_at_the_next() -> None:
    parts = built(*PICTURES, "sampler.steps_per_iteration=24")
    acting = Acting(parts.environments[0], parts.normalizer, Counting(parts.policy))
    for step in range(10):
        assert acting.memory.tolist() == [[step], [step]]
        taken = acting.step(None)
        assert taken.action[:, 0].tolist() == [step % 3] * 2
    assert taken.terminated.all()
    acting.restart(np.array([True, False]))
    assert acting.memory.tolist() == [[0], [10]]


class Counter(Audience):
    """Counts the steps of the first environment that count."""

    first = 0

    def step(self, step: Any, counted: Any, ended: Any) -> None:
        self.first += bool(counted[0])


def test_evaluations_and_rollouts_carry_the_memory() -> None:
    parts = built(*PICTURES, "sampler.steps_per_iteration=24", "critic=zero")
    for first in (0, 12):
        (sample,) = parts.sampler.collect(Counting(parts.policy))  # type: ignore[attr-defined]
        assert sample.action[:, 0, 0].tolist() == [(first + t) % 10 % 3 for t in range(12)]
    other = built(*PICTURES, "sampler.steps_per_iteration=24", "critic=zero")
    other.load_state_dict(copy.deepcopy(parts.state_dict()))
    for each in (parts, other):
        (sample,) = each.sampler.collect(Counting(parts.policy))  # type: ignore[attr-defined]
        assert sample.action[:, 0, 0].tolist() == [(24 + t) % 10 % 3 for t in range(12)]
    counter = Counter()
    played = play(parts.environments[0], Counting(parts.policy), parts.normalizer, Episodes(2, 100), 0, False, counter)
    assert played.returns.size == 2
    assert counter.first <= 10


def test_branches_begin_with_the_memory_of_their_trunk(monkeypatch: pytest.MonkeyPatch) -> None:
    vine = ("sampler=vine", "sampler.steps_per_iteration=240", "sampler.num_states=4", "sampler.branch_length=3")
    parts = built(*PICTURES, *vine, "sampler.num_envs=16")  # as many as branches: each plays one
    acting, taken = Acting.step, []

    def step(self: Acting, *arguments: Any, **named: Any) -> Any:
        taken.append(acting(self, *arguments, **named))
        return taken[-1]

    monkeypatch.setattr(Acting, "step", step)
    (sample,) = parts.sampler.collect(Counting(parts.policy))  # type: ignore[attr-defined]
    age, second = sample.trunk.time.flatten()[sample.place].repeat_interleave(4), torch.from_numpy(taken[-2].action)
    going_on = sample.reward[1] > 0
    assert len(age[going_on].unique()) > 1
    assert torch.equal(second[going_on, 0], (age[going_on] + 1) % 3)


def test_imposed_actions_are_taken_in_place_of_the_policys() -> None:
    parts = built("env=CartPole-v1", "sampler.num_envs=3", "sampler.steps_per_iteration=24")
    acting, noise = Acting(parts.environments[0], parts.normalizer, parts.policy), np.zeros((3, 1), dtype=np.float32)
    imposed = np.array([True, False, True]), np.array([[1], [1]])
    assert acting.step(noise, imposed=imposed).action[:, 0].tolist() == [1, 0, 1]  # noise 0 is the first action


@pytest.mark.parametrize("sampler", ["single_path", "vine", "whole_episodes"])
def test_pixels_stay_as_they_are_from_the_environment_to_the_network(sampler: str) -> None:
    algo = "cem" if sampler == "whole_episodes" else "trpo"
    more = {
        "single_path": ("sampler.steps_per_iteration=24",),
        "vine": ("sampler.steps_per_iteration=64", "sampler.num_states=4", "sampler.branch_length=3", "critic=mlp"),
        "whole_episodes": ("algo.population_size=4", "algo.elite_fraction=0.5", "policy=linear"),
    }[sampler]
    parts = built(f"algo={algo}", *PICTURES, f"sampler={sampler}", *more)
    assert parts.environments[0].observation.dtype == np.uint8
    seen = parts.environments[0].observation.copy()
    x = torch.from_numpy(seen)
    torch.testing.assert_close(parts.policy.infer(x), parts.policy.infer(x.flatten(1).float()))
    if sampler == "single_path":
        (sample,) = parts.sampler.collect(parts.policy)  # type: ignore[attr-defined]
        assert sample.observation.shape == (12, 2, 4, 3, 2)
        assert sample.observation.dtype == torch.uint8
        np.testing.assert_array_equal(sample.observation[0].numpy(), seen)
    before = [parameter.clone() for parameter in on_cpu(parts.policy).parameters()]
    parts.iterate(0.0)
    assert any(not torch.equal(old, new) for old, new in zip(before, parts.policy.parameters(), strict=True))
