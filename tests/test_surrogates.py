"""The surrogates at theta_old against the policy gradient, against each other, and PPO's against worked numbers."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from trpo_cli.data import Batch
from trpo_cli.surrogates import (
    WRITTEN_OUT,
    clipped,
    full_action_sum,
    importance_sampled,
    log_likelihood,
    reward_weighted,
    self_normalised,
    value_and_slope,
)


def batch(
    advantage: Tensor, old_log_prob: Tensor | None = None, weight: Tensor | None = None, log_q: Tensor | None = None
) -> Batch:
    """All but `weight` (S, K); actions are drawn from the old policy where no `log_q` is given."""
    old = torch.zeros_like(advantage) if old_log_prob is None else old_log_prob
    return Batch(
        states=[],
        advantage=advantage,
        return_=advantage.mean(1),
        weight=torch.ones(len(advantage)) if weight is None else weight,
        old_entropy=torch.zeros(len(advantage)),
        old_log_prob=old,
        log_q=old if log_q is None else log_q,
    )


def softmax_policy(actions_per_state: int, size: int = 50) -> tuple[Tensor, Tensor, Tensor, torch.Generator]:
    """theta (3, 4), log-probabilities of every action (S, 4), some actions (S, K), and a generator."""
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(3, 4, generator=generator, dtype=torch.float64).requires_grad_()
    log_prob = (torch.randn(size, 3, generator=generator, dtype=torch.float64) @ theta).log_softmax(-1)
    return theta, log_prob, torch.randint(4, (size, actions_per_state), generator=generator), generator


@pytest.mark.parametrize("surrogate", [importance_sampled, functools.partial(clipped, clip=0.2), log_likelihood])
@pytest.mark.parametrize("actions_per_state", [1, 3])
@pytest.mark.parametrize("uniform", [False, True])
def test_gradient_at_theta_old_is_the_policy_gradient(surrogate: Any, actions_per_state: int, uniform: bool) -> None:
    """grad L = E[grad log pi(a|s) A], with the weights of the states, and of the actions where others were tried."""
    theta, every, action, generator = softmax_policy(actions_per_state)
    advantage = torch.randn(action.shape, generator=generator, dtype=torch.float64)
    weight = torch.rand(len(action), generator=generator, dtype=torch.float64)
    log_prob = every.gather(1, action)
    log_q = torch.full_like(log_prob, 0.25).log() if uniform else log_prob.detach()
    data = batch(advantage, log_prob.detach(), weight, log_q)
    (gradient,) = torch.autograd.grad(surrogate(log_prob, data), theta, retain_graph=True)
    ratio = (log_prob.detach() - log_q).exp()
    (expected,) = torch.autograd.grad((weight[:, None] * ratio * log_prob * advantage).mean(), theta)
    torch.testing.assert_close(gradient, expected)


def test_importance_sampling_weighs_by_the_ratio() -> None:
    data = batch(torch.tensor([[1.0], [2.0]]), torch.tensor([[0.5], [0.1]]).log())
    assert importance_sampled(torch.tensor([[0.25], [0.2]]).log(), data).item() == pytest.approx((0.5 * 1 + 2 * 2) / 2)


def test_self_normalisation_by_hand() -> None:
    """Equation 33: w = pi / q = 0.6/0.5 and 0.1/0.25, so (1.2 * 2 + 0.4 * 9) / 1.6 = 3.75."""
    data = batch(torch.tensor([[2.0, 9.0]]), log_q=torch.tensor([[0.5, 0.25]]).log())
    assert self_normalised(torch.tensor([[0.6, 0.1]]).log(), data).item() == pytest.approx(3.75)


@pytest.mark.parametrize(("surrogate", "unmoved"), [(self_normalised, True), (importance_sampled, False)])
def test_a_number_added_to_q_changes_no_gradient(surrogate: Any, unmoved: bool) -> None:
    """Only the self-normalised estimator needs no baseline (the TRPO paper, equation 16)."""
    theta, every, action, generator = softmax_policy(3)
    q = torch.randn(action.shape, generator=generator, dtype=torch.float64)
    log_prob = every.gather(1, action)

    def gradient(constant: Tensor) -> Tensor:
        value = surrogate(log_prob, batch(q + constant, log_prob.detach()))
        return torch.autograd.grad(value, theta, retain_graph=True)[0]

    shift = torch.randn(len(q), 1, generator=generator, dtype=torch.float64)
    assert torch.allclose(gradient(shift), gradient(torch.zeros(1)), atol=1e-12) is unmoved


def test_over_every_action_the_estimators_agree() -> None:
    """With each action once, equations 31 (q uniform), 32 and 33 are the same number, away from theta_old too."""
    _, every, _, generator = softmax_policy(1)
    q = torch.randn(every.shape, generator=generator, dtype=torch.float64)
    weight = torch.rand(len(q), generator=generator, dtype=torch.float64)
    data = batch(q, torch.zeros_like(q), weight, log_q=torch.full_like(q, 0.25).log())
    expected = (weight * (every.exp() * q).sum(1)).mean()
    for surrogate in (importance_sampled, self_normalised, full_action_sum):
        torch.testing.assert_close(surrogate(every, data), expected)


def test_reward_weighting_by_hand() -> None:
    """Weights exp(A / temperature) of mean one: 0.5 and 1.5 for A = 0 and ln 9 at temperature 2."""
    data = batch(torch.tensor([[0.0], [9.0]]).log().clamp(min=0))
    value = reward_weighted(torch.tensor([[-1.0], [-3.0]]), data, temperature=2.0)
    assert value.item() == pytest.approx((0.5 * -1 + 1.5 * -3) / 2)


def test_reward_weighting_corrects_for_the_proposal() -> None:
    """Weights exp(A / temperature) pi_old / q: 1 * 0.6/0.3 and 3 * 0.2/0.4, that is 8/7 and 6/7 of their mean."""
    advantage = torch.tensor([[0.0], [9.0]]).log().clamp(min=0)
    data = batch(advantage, torch.tensor([[0.6], [0.2]]).log(), log_q=torch.tensor([[0.3], [0.4]]).log())
    value = reward_weighted(torch.tensor([[-1.0], [-3.0]]), data, temperature=2.0)
    assert value.item() == pytest.approx((8 / 7 * -1 + 6 / 7 * -3) / 2)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(1.5, 1.0, 1.2), (0.5, 1.0, 0.5), (1.5, -1.0, -1.5), (0.5, -1.0, -0.8), (1.1, 2.0, 2.2)],
)
def test_clipping_is_pessimistic(ratio: float, advantage: float, expected: float) -> None:
    value = clipped(torch.tensor([[ratio]]).log(), batch(torch.tensor([[advantage]])), clip=0.2)
    assert value.item() == pytest.approx(expected)


def test_a_clipped_sample_has_no_gradient() -> None:
    log_prob = torch.tensor([[1.5], [0.5]]).log().requires_grad_()
    (gradient,) = torch.autograd.grad(clipped(log_prob, batch(torch.tensor([[1.0], [-1.0]])), clip=0.2), log_prob)
    assert not gradient.any()


@pytest.mark.parametrize("actions_per_state", [1, 3])
@pytest.mark.parametrize("surrogate", [importance_sampled, functools.partial(clipped, clip=0.2), log_likelihood])
def test_slopes_that_are_written_out_are_the_automatic_ones_bit_for_bit(surrogate: Any, actions_per_state: int) -> None:
    generator = torch.Generator().manual_seed(1)
    shape = (1000, actions_per_state)
    old, advantage = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    advantage[::7] = 0.0
    log_prob = old + 0.3 * torch.randn(shape, generator=generator)
    log_prob[::5] = old[::5]
    log_q = old + 0.1 * torch.randn(shape, generator=generator)
    data = batch(advantage, old, torch.rand(1000, generator=generator), log_q)
    value, slope = value_and_slope(surrogate, log_prob, data)
    leaf = log_prob.clone().requires_grad_()
    expected = surrogate(leaf, data)
    assert torch.equal(value, expected)
    assert torch.equal(slope, torch.autograd.grad(expected, leaf)[0])
    assert getattr(surrogate, "func", surrogate) in WRITTEN_OUT


def test_a_surrogate_of_ones_own_has_its_slope_too() -> None:
    data = batch(torch.tensor([[1.0], [2.0]]))
    value, slope = value_and_slope(squared, torch.tensor([[0.5], [0.25]]), data)
    assert value.item() == pytest.approx(0.5 * 0.5 * 0.5 + 0.5 * 0.25 * 0.25 * 2)
    torch.testing.assert_close(slope, torch.tensor([[0.5], [0.5]]))


def squared(log_prob: Tensor, data: Batch) -> Tensor:
    return (log_prob.square() * data.advantage).mean()
