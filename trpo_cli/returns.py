"""Advantage estimators as pure functions of (T, N) tensors.

All functions take tensors (T, N): `reward` of the action at time t; `value`, V(s_t); `next_value`, V of the true
successor, even where a time limit or the end of the batch cut the episode off; `terminated` and `truncated`. After a
termination nothing follows, so the successor's value counts as 0. After a truncation the recursion stops, and the
successor's value stands for the rest of the episode. Each function returns the advantages (T, N); the returns that the
critic learns are advantage + value.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trpo_cli.ranges import Count, UnitInterval


def gae(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: UnitInterval,
    *,
    lam: UnitInterval,
) -> Tensor:
    """Generalised advantage estimation (Schulman et al. 2016, equation 16): the sum of (gamma lam)^l delta_{t+l}."""
    delta = reward + gamma * next_value * ~terminated - value
    carry = gamma * lam * ~(terminated | truncated)
    advantage = torch.empty_like(delta)
    running = torch.zeros_like(delta[0])
    for t in reversed(range(len(delta))):
        running = delta[t] + carry[t] * running
        advantage[t] = running
    return advantage


def monte_carlo(
    reward: Tensor, value: Tensor, next_value: Tensor, terminated: Tensor, truncated: Tensor, gamma: UnitInterval
) -> Tensor:
    """Reward-to-go minus a baseline (Williams 1992): the discounted rewards until the end of the episode, less V(s_t).

    The value of the successor completes an episode that was cut off. This is `gae` with lam = 1.
    """
    return gae(reward, value, next_value, terminated, truncated, gamma, lam=1.0)


def n_step(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: UnitInterval,
    *,
    n: Count,
) -> Tensor:
    """sum_{k<n} gamma^k r_{t+k} + gamma^n V(s_{t+n}) - V(s_t) (Mnih et al. 2016).

    The sum is shorter where an episode or the batch ends.
    """
    one_step = reward + gamma * next_value * ~terminated
    goes_on = ~(terminated | truncated)[:-1]
    target = one_step
    for _ in range(min(n, len(reward)) - 1):
        longer = torch.where(goes_on, reward[:-1] + gamma * target[1:], one_step[:-1])
        target = torch.cat([longer, one_step[-1:]])
    return target - value
