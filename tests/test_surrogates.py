"""The surrogates at theta_old against the policy gradient, and PPO's against worked numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trpo_cli.data import Batch
from trpo_cli.surrogates import clipped, importance_sampled


def batch(advantage: Tensor, old_log_prob: Tensor | None = None, weight: Tensor | None = None) -> Batch:
    size = len(advantage)
    blank = torch.zeros(size, 1)
    return Batch(
        observation=blank,
        action=blank,
        advantage=advantage,
        return_=advantage,
        weight=torch.ones(size) if weight is None else weight,
        old_parameters=blank,
        old_log_prob=torch.zeros(size) if old_log_prob is None else old_log_prob,
    )


@pytest.mark.parametrize("surrogate", [importance_sampled, lambda log_prob, b: clipped(log_prob, b, clip=0.2)])
def test_gradient_at_theta_old_is_the_policy_gradient(surrogate: object) -> None:
    """grad L = E[grad log pi(a|s) A], with the weights of the states."""
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(3, 4, generator=generator).requires_grad_()
    observation, action = torch.randn(50, 3, generator=generator), torch.randint(4, (50,), generator=generator)
    advantage, weight = torch.randn(50, generator=generator), torch.rand(50, generator=generator)
    log_prob = (observation @ theta).log_softmax(-1)[torch.arange(50), action]
    data = batch(advantage, log_prob.detach(), weight)
    (gradient,) = torch.autograd.grad(surrogate(log_prob, data), theta, retain_graph=True)  # type: ignore[operator]
    (expected,) = torch.autograd.grad((weight * log_prob * advantage).mean(), theta)
    torch.testing.assert_close(gradient, expected)


def test_importance_sampling_weighs_by_the_ratio() -> None:
    data = batch(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.1]).log())
    assert importance_sampled(torch.tensor([0.25, 0.2]).log(), data).item() == pytest.approx((0.5 * 1 + 2 * 2) / 2)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(1.5, 1.0, 1.2), (0.5, 1.0, 0.5), (1.5, -1.0, -1.5), (0.5, -1.0, -0.8), (1.1, 2.0, 2.2)],
)
def test_clipping_is_pessimistic(ratio: float, advantage: float, expected: float) -> None:
    value = clipped(torch.tensor([ratio]).log(), batch(torch.tensor([advantage])), clip=0.2)
    assert value.item() == pytest.approx(expected)


def test_a_clipped_sample_has_no_gradient() -> None:
    log_prob = torch.tensor([1.5, 0.5]).log().requires_grad_()
    (gradient,) = torch.autograd.grad(clipped(log_prob, batch(torch.tensor([1.0, -1.0])), clip=0.2), log_prob)
    assert not gradient.any()
