"""What samplers collect, and what it says of the actions that were tried."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from trpo_cli.data.observations import Observations, Tensors

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
class Rollout(Tensors, Sample):
    """T consecutive steps of N environments under one policy; episodes may begin and end anywhere inside.

    `observation` is what the policy saw at time t; `reward`, `terminated` and `truncated` followed from the action at
    time t. A step is never both terminated and truncated: a true end takes precedence over a time limit.
    """

    observation: Observations  # (T, N, O)
    action: Tensor  # (T, N, A), before clipping to the bounds
    reward: Tensor  # (T, N)
    terminated: Tensor  # (T, N) bool, where the successor has value 0
    truncated: Tensor  # (T, N) bool, where the episode was cut off, and the successor still has value
    time: Tensor  # (T, N) int64, steps since the episode began
    truncated_observation: Tensor  # (M, O), the true successor of each truncated step, in row-major order
    last_observation: Tensor  # (N, O), the successor of time T - 1 where the episode continues

    def values(self, predict: Predict) -> tuple[Tensor, Tensor]:
        """Return V(s_t) and V of the true successor, both (T, N)."""
        value = predict(self.observation.flatten(0, 1)).view_as(self.reward)
        next_value = torch.cat([value[1:], predict(self.last_observation)[None]])
        next_value[self.truncated] = predict(self.truncated_observation)
        return value, next_value

    def advantages(self, predict: Predict, advantage: Advantage, gamma: float) -> tuple[Tensor, Visited]:
        """Return the advantages (T, N), and every step as a visited state."""
        value, next_value = self.values(predict)
        found = advantage(self.reward, value, next_value, self.terminated, self.truncated, gamma)
        return found, Visited(self.observation.flatten(0, 1), value.flatten(), (found + value).flatten())

    def estimate(
        self, predict: Predict, advantage: Advantage, gamma: float, discount: float
    ) -> tuple[Estimates, Visited]:
        found, visited = self.advantages(predict, advantage, gamma)
        estimates = Estimates(
            observation=visited.observation,
            action=self.action.flatten(0, 1)[:, None],
            advantage=found.flatten()[:, None],
            return_=visited.return_,
            weight=discount ** self.time.flatten().to(found.dtype),
            log_weight=torch.zeros_like(found).flatten()[:, None],
        )
        return estimates, visited
