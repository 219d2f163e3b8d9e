"""What samplers collect, and what it says of the actions that were tried."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from trpo_cli.data.observations import Observations, Sequences, Steps, Tensors

Predict = Callable[[Observations], Tensor]
"""Observations (M, O) -> V(s) (M,)."""
Advantage = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, float], Tensor]
"""reward, value, next_value, terminated, truncated, all (T, N), and gamma -> advantage (T, N): see `returns.py`."""


@dataclass(frozen=True)
class Visited:
    """M states that the critic learns from."""

    observation: Observations  # (M, O)
    value: Tensor  # (M,), V(s) by the critic
    return_: Tensor  # (M,), the estimated return: the critic's target


@dataclass(frozen=True)
class Estimates:
    """What K actions in each of S states are worth."""

    observation: Observations  # (S, O)
    action: Tensor  # (S, K, A)
    advantage: Tensor  # (S, K)
    return_: Tensor  # (S,), of the old policy from this state
    weight: Tensor  # (S,), of the state, on any scale
    log_weight: Tensor  # (S, K), log pi_old(a|s) - log q(a|s): the actions were drawn from q


class Sample(ABC):
    """What a sampler collects."""

    @abstractmethod
    def to(self, device: torch.device) -> Self:
        """Return a copy on another device."""

    def judge(self, improved: Any) -> dict[str, float | None]:
        """Return metrics of the policy that an update made, if the sampler knows them exactly."""
        return {}

    @abstractmethod
    def estimate(
        self, predict: Predict, advantage: Advantage, gamma: float, discount: float
    ) -> tuple[Estimates, Visited]:
        """Estimate what the sampled actions are worth.

        The critic's `predict` is the baseline, and gives the value of whatever was cut off. A state at time t of its
        episode has weight `discount`^t.
        """


@dataclass(frozen=True)
class Remembered(Tensors):
    """What policy and critic remember in the course of a rollout, M numbers for each environment.

    Updates go over sequences of `length` steps, and before each over `burn_in` more, as far as the rollout has them.
    """

    memory: Tensor  # (T, N, M), before each step
    begins: Tensor  # (T, N) bool, where an episode begins, with an empty memory
    at_truncation: Tensor  # (X, M), with which the true successors of the X truncated steps are seen
    at_end: Tensor  # (N, M), after the last step
    length: int
    burn_in: int

    def lead_to(self, observation: Steps, time: Tensor, row: Tensor, width: int, length: int) -> Sequences:
        """Return sequences of `width` steps that end at the given times (G,) of the environments `row` (G,).

        `observation` (T, N, O) is that of the rollout.
        """
        times = time[:, None] + torch.arange(1 - width, 1, device=time.device)
        first = (-times[:, 0]).clamp(min=0)
        place = times.clamp(min=0) * self.begins.shape[1] + row[:, None]
        start = place.gather(1, first[:, None])[:, 0]
        flat = observation.flatten(0, 1)
        return Sequences(flat[place], self.memory.flatten(0, 1)[start], first, self.begins.flatten()[place], length)

    def sequences(self, observation: Steps) -> Sequences:
        """Return the whole rollout, whose observations are (T, N, O), in its sequences."""
        horizon, num_envs = self.begins.shape
        last = torch.arange(self.length - 1, horizon, self.length, device=self.begins.device)
        row = torch.arange(num_envs, device=self.begins.device)
        time, place = torch.cartesian_prod(last, row).unbind(1)
        return self.lead_to(observation, time, place, self.length + self.burn_in, self.length)

    def arrange(self, values: Tensor) -> Tensor:
        """Return values (T, N, ...) in the order of the rows of `sequences`."""
        by_sequence: Tensor = values.unflatten(0, (-1, self.length)).transpose(1, 2)
        return by_sequence.flatten(0, 2)

    def restore(self, rows: Tensor) -> Tensor:
        """Do the inverse of `arrange`."""
        return rows.view(-1, self.begins.shape[1], self.length).transpose(1, 2).flatten(0, 1)


@dataclass(frozen=True)
class Rollout(Tensors, Sample):
    """T consecutive steps of N environments under one policy; episodes may begin and end anywhere inside.

    `observation` is what the policy saw at time t; `reward`, `terminated` and `truncated` followed from the action at
    time t. A step is never both terminated and truncated: a true end takes precedence over a time limit.
    """

    observation: Steps  # (T, N, O)
    action: Tensor  # (T, N, A), before clipping to the bounds
    reward: Tensor  # (T, N)
    terminated: Tensor  # (T, N) bool, where the successor has value 0
    truncated: Tensor  # (T, N) bool, where the episode was cut off, and the successor still has value
    time: Tensor  # (T, N) int64, steps since the episode began
    truncated_observation: Tensor  # (M, O), the true successor of each truncated step, in row-major order
    last_observation: Tensor  # (N, O), the successor of time T - 1 where the episode continues
    remembered: Remembered | None = None  # None if neither policy nor critic has a memory

    @property
    def states(self) -> Observations:
        """All observations, one in each row."""
        if self.remembered is None:
            return self.observation.flatten(0, 1)
        return self.remembered.sequences(self.observation)

    def states_at(self, place: Tensor) -> Observations:
        """Return the observations at places (S,) among the T * N, each with as many steps before it as updates take."""
        if self.remembered is None:
            return self.observation.flatten(0, 1)[place]
        num_envs, width = self.reward.shape[1], self.remembered.length + self.remembered.burn_in
        return self.remembered.lead_to(self.observation, place // num_envs, place % num_envs, width, 1)

    def memory_at(self, place: Tensor) -> Tensor:
        """Return what was remembered (S, M) at places (S,) among the T * N."""
        if self.remembered is None:
            return self.reward.new_empty((len(place), 0))
        return self.remembered.memory.flatten(0, 1)[place]

    def rows(self, values: Tensor) -> Tensor:
        """Return values (T, N, ...) in the order of the rows of `states`."""
        return values.flatten(0, 1) if self.remembered is None else self.remembered.arrange(values)

    def values(self, states: Observations, predict: Predict) -> tuple[Tensor, Tensor]:
        """Return V(s_t) and V of the true successor, both (T, N)."""
        last: Observations = self.last_observation
        truncated: Observations = self.truncated_observation
        if self.remembered is None:
            value = predict(states).view_as(self.reward)
        else:
            value = self.remembered.restore(predict(states))
            last = Sequences.of_single_steps(self.last_observation, self.remembered.at_end)
            truncated = Sequences.of_single_steps(self.truncated_observation, self.remembered.at_truncation)
        next_value = torch.cat([value[1:], predict(last)[None]])
        next_value[self.truncated] = predict(truncated)
        return value, next_value

    def advantages(self, predict: Predict, advantage: Advantage, gamma: float) -> tuple[Tensor, Visited]:
        """Return the advantages (T, N), and every step as a visited state."""
        states = self.states
        value, next_value = self.values(states, predict)
        found = advantage(self.reward, value, next_value, self.terminated, self.truncated, gamma)
        return found, Visited(states, self.rows(value), self.rows(found + value))

    def estimate(
        self, predict: Predict, advantage: Advantage, gamma: float, discount: float
    ) -> tuple[Estimates, Visited]:
        found, visited = self.advantages(predict, advantage, gamma)
        estimates = Estimates(
            observation=visited.observation,
            action=self.rows(self.action)[:, None],
            advantage=self.rows(found)[:, None],
            return_=visited.return_,
            weight=discount ** self.rows(self.time).to(found.dtype),
            log_weight=torch.zeros_like(found).flatten()[:, None],
        )
        return estimates, visited
