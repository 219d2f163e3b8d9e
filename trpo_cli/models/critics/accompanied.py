"""A policy and a critic that both remember."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trpo_cli.data import Observations
from trpo_cli.models.critics.base import Critic
from trpo_cli.models.policies import Actor, Policy


class Accompanied(Policy):
    """A policy, accompanied by a critic that sees what it sees: the memory of both is kept, the critic's behind."""

    def __init__(self, policy: Policy, critic: Critic) -> None:
        super().__init__()
        self.policy, self.critic, self.distribution = policy, critic, policy.distribution
        self.memory_size = policy.memory_size + critic.memory_size

    def forward(self, observation: Any) -> Tensor:
        return self.policy(observation)  # type: ignore[no-any-return]

    @torch.no_grad()
    def infer(self, observation: Observations) -> Tensor:
        return self.policy.infer(observation)

    def actor(self) -> Actor:
        act, follow, own = self.policy.actor(), self.critic.follower(), self.policy.memory_size

        def accompanied(
            observation: NDArray[Any], memory: NDArray[Any], noise: NDArray[Any] | None
        ) -> tuple[NDArray[Any], NDArray[Any]]:
            action, after = act(observation, memory[:, :own], noise)
            return action, np.concatenate([after, follow(observation, memory[:, own:])], axis=1)

        return accompanied
