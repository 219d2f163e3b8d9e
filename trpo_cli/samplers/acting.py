"""One way to act: what a policy sees, remembers and does in N environments, one step at a time."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trpo_cli.envs.environments import Environments, Flags
from trpo_cli.envs.normalize import ObservationNormalizer
from trpo_cli.models.policies import Actor, Policy

Array = NDArray[Any]


class Step(NamedTuple):
    """What N environments did with the actions of a policy."""

    seen: Array  # (N, O), the observations as the policy saw them
    action: Array  # (N, A)
    reached: Array  # (N, O), the next observations as they came
    reward: NDArray[np.float64]  # (N,)
    terminated: Flags  # (N,)
    truncated: Flags  # (N,), never where terminated


class Acting:
    """A policy in environments that are in the middle of their episodes, or at their beginning."""

    def __init__(
        self, environments: Environments, normalizer: ObservationNormalizer, policy: Policy, act: Actor | None = None
    ) -> None:
        """`act` is how the policy acts, if not as it is now. Its memory is empty at first."""
        self.environments, self.normalizer = environments, normalizer
        self.act = policy.actor() if act is None else act
        self.memory: Array = np.zeros((environments.num_envs, policy.memory_size), dtype=np.float32)

    def step(self, noise: Array | None, out: Array | None = None, imposed: tuple[Flags, Array] | None = None) -> Step:
        """Act once everywhere, on noise (N, K), or with the likeliest actions if there is none.

        What the policy sees is written into `out` (N, O) if given. `imposed` are environments (N,) and the actions
        (K, A) that are taken there instead. Raises what `Environments.step` raises.
        """
        seen = self.normalizer(self.environments.observation, out=out)
        action, self.memory = self.act(seen, self.memory, noise)
        if imposed is not None:
            rows, actions = imposed
            action[rows] = actions
        return Step(seen, action, *self.environments.step(action))

    def restart(self, ended: Flags, seeds: list[int] | None = None) -> None:
        """Begin new episodes where they have `ended` (N,), with an empty memory; `seeds` as in `Environments`."""
        self.memory[ended] = 0
        self.environments.restart(ended, seeds)
