"""The one way to act: what a policy sees, remembers and does in N environments, one step at a time."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trpo_cli.envs.environments import Environments, Flags
from trpo_cli.envs.normalize import ObservationNormalizer
from trpo_cli.models.policies import Policy

Array = NDArray[Any]


class Step(NamedTuple):
    """One step of a policy in N environments."""

    action: Array  # (N, A)
    reached: Array  # (N, O), the next observations, as the environments gave them
    reward: NDArray[np.float64]  # (N,)
    terminated: Flags  # (N,)
    truncated: Flags  # (N,), never where terminated
    lost: Flags  # (N,), where a life was lost: an end for the learner alone


class Acting:
    """A policy in environments that are at any point of their episodes."""

    def __init__(
        self, environments: Environments, normalizer: ObservationNormalizer, policy: Policy, memory: Array | None = None
    ) -> None:
        """The policy acts as it is now, and begins with the `memory` (N, M), or an empty one."""
        self.environments, self.normalizer, self.act = environments, normalizer, policy.actor()
        empty = np.zeros((environments.num_envs, policy.memory_size), dtype=np.float32)
        self.memory: Array = empty if memory is None else memory

    def step(self, noise: Array | None, out: Array | None = None, imposed: tuple[Flags, Array] | None = None) -> Step:
        """Act once in every environment: on noise (N, K), or with the likeliest actions if `noise` is None.

        What the policy sees is written to `out` (N, O) if given. `imposed` names environments, a mask (N,), and the
        actions (K, A) to take there in place of the policy's. Raises whatever `Environments.step` raises.
        """
        seen = self.environments.observation
        if out is not None or not self.normalizer.is_identity:
            seen = self.normalizer(seen, out=out)
        action, self.memory = self.act(seen, self.memory, noise)
        if imposed is not None:
            rows, actions = imposed
            action[rows] = actions
        return Step(action, *self.environments.step(action), self.environments.lost)

    def restart(self, ended: Flags, seeds: list[int] | None = None) -> None:
        """Begin new episodes, with an empty memory, where they have `ended` (N,). `seeds` are as in `Environments`."""
        self.memory[ended] = 0
        self.environments.restart(ended, seeds)
