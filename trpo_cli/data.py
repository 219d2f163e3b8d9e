"""The two shapes data takes: a `Rollout` as it was sampled, a flat `Batch` as an update reads it.

Sizes: T time steps, N environments, B = T * N, O observation numbers, A action numbers, P distribution parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rollout:
    """T consecutive steps of N environments under one policy; episodes may begin and end anywhere inside.

    `observation` is what the policy saw at time t, `reward`, `terminated` and `truncated` are what the action at time t
    brought. A step is never both terminated and truncated: a true end outweighs a time limit.
    """

    observation: Tensor  # (T, N, O)
    action: Tensor  # (T, N, A), before clipping to the bounds
    reward: Tensor  # (T, N)
    terminated: Tensor  # (T, N) bool, the successor has value 0
    truncated: Tensor  # (T, N) bool, cut off: the successor still has value
    time: Tensor  # (T, N) int64, steps since the episode began
    truncated_observation: Tensor  # (M, O), the true successor of each truncated step, in row-major order
    last_observation: Tensor  # (N, O), successor of time T - 1 where the episode goes on

    def to(self, device: torch.device) -> Rollout:
        """The same on another device."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items()})


@dataclass(frozen=True)
class Batch:
    """B state-action pairs with what the old policy thought of them."""

    observation: Tensor  # (B, O)
    action: Tensor  # (B, A)
    advantage: Tensor  # (B,)
    return_: Tensor  # (B,), the critic's target
    weight: Tensor  # (B,), of the state, mean one
    old_parameters: Tensor  # (B, P), the distribution of the old policy
    old_log_prob: Tensor  # (B,), log pi_old(a|s)

    def __len__(self) -> int:
        return len(self.advantage)

    def select(self, rows: Tensor | slice) -> Batch:
        """The given rows, (K,) int64, in that order; or a slice of rows, without copying."""
        return replace(self, **{name: value[rows] for name, value in vars(self).items()})
