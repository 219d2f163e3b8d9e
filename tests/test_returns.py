"""Advantage estimators against worked numbers, with a truncation and a termination in the middle, and identities."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trpo_cli.returns import gae, monte_carlo, n_step

GAMMA = 0.5


def column(*values: float) -> Tensor:
    """One environment: (T, 1)."""
    return torch.tensor(values, dtype=torch.float64)[:, None]


# Six steps of one environment. Step 1 terminates; step 3 is truncated, its successor worth 8; the batch ends
# after step 5, whose successor is worth 4.
REWARD = column(1, 2, 3, 4, 5, 6)
VALUE = column(1, 1, 2, 2, 1, 3)
NEXT_VALUE = column(1, 99, 2, 8, 3, 4)  # 99 follows the termination and must not count
TERMINATED = column(0, 1, 0, 0, 0, 0).bool()
TRUNCATED = column(0, 0, 0, 1, 0, 0).bool()
TRAJECTORY = (REWARD, VALUE, NEXT_VALUE, TERMINATED, TRUNCATED)


def test_gae_by_hand() -> None:
    # delta = r + gamma V' - V = 0.5, 1, 2, 6, 5.5, 5; gamma lam = 0.25, cut after steps 1, 3 and 5
    expected = column(0.5 + 0.25 * 1, 1, 2 + 0.25 * 6, 6, 5.5 + 0.25 * 5, 5)
    torch.testing.assert_close(gae(*TRAJECTORY, GAMMA, lam=0.5), expected)


def test_monte_carlo_by_hand() -> None:
    # returns: 1 + 2/2 = 2; 2; 3 + (4 + 8/2)/2 = 7; 4 + 8/2 = 8; 5 + (6 + 4/2)/2 = 9; 6 + 4/2 = 8
    torch.testing.assert_close(monte_carlo(*TRAJECTORY, GAMMA), column(2, 2, 7, 8, 9, 8) - VALUE)


def test_two_steps_by_hand() -> None:
    # 1 + 2/2; 2 (ended); 3 + 4/2 + 8/4; 4 + 8/2 (cut off); 5 + 6/2 + 4/4; 6 + 4/2 (batch ends)
    torch.testing.assert_close(n_step(*TRAJECTORY, GAMMA, n=2), column(2, 2, 7, 8, 9, 8) - VALUE)
    three_in_a_row = (
        column(1, 2, 3),
        column(0, 0, 0),
        column(10, 20, 40),
        column(0, 0, 0).bool(),
        column(0, 0, 0).bool(),
    )
    # 1 + 2/2 + 20/4; 2 + 3/2 + 40/4; 3 + 40/2
    torch.testing.assert_close(n_step(*three_in_a_row, GAMMA, n=2), column(7, 13.5, 23))


def test_one_step_is_the_temporal_difference() -> None:
    torch.testing.assert_close(n_step(*TRAJECTORY, GAMMA, n=1), gae(*TRAJECTORY, GAMMA, lam=0.0))


def test_many_steps_are_monte_carlo() -> None:
    torch.testing.assert_close(n_step(*TRAJECTORY, GAMMA, n=100), monte_carlo(*TRAJECTORY, GAMMA))


@settings(deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), gamma=st.floats(0, 1), lam=st.floats(0, 0.99))
def test_gae_is_the_exponential_average_of_n_step(seed: int, gamma: float, lam: float) -> None:
    """Schulman et al. 2016, equation 16: (1 - lam) sum lam^(n-1) A^(n); past the horizon A^(n) is Monte Carlo."""
    generator = torch.Generator().manual_seed(seed)
    steps, envs = 6, 3
    reward, value, next_value = torch.randn(3, steps, envs, generator=generator, dtype=torch.float64)
    next_value[:-1] = value[1:]
    terminated, truncated = torch.rand(2, steps, envs, generator=generator) < 0.2
    truncated &= ~terminated
    next_value = torch.where(truncated, torch.randn(steps, envs, generator=generator, dtype=torch.float64), next_value)
    trajectory = (reward, value, next_value, terminated, truncated)
    average = sum((1 - lam) * lam ** (n - 1) * n_step(*trajectory, gamma, n=n) for n in range(1, steps))
    average = average + lam ** (steps - 1) * monte_carlo(*trajectory, gamma)
    torch.testing.assert_close(gae(*trajectory, gamma, lam=lam), average)


def test_environments_do_not_mix() -> None:
    both = tuple(torch.cat([x, x.flip(0)], dim=1) for x in TRAJECTORY)
    torch.testing.assert_close(gae(*both, GAMMA, lam=0.9)[:, :1], gae(*TRAJECTORY, GAMMA, lam=0.9))
