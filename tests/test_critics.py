"""Critics: each learns what it can express, and none is spoilt by a return that is not finite."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import vectors

from trpo_cli.models.critics import Critic, LinearCritic, MLPCritic, SharedCritic, ZeroCritic, explained_variance
from trpo_cli.models.distributions import Categorical
from trpo_cli.models.policies.mlp import MLPPolicy


def mlp(size: int = 2) -> MLPCritic:
    torch.manual_seed(0)
    return MLPCritic(
        vectors(size),
        torch.Generator().manual_seed(0),
        hidden_sizes=[32],
        activation="tanh",
        learning_rate=1e-2,
        learning_rate_decay="linear",
        epochs=60,
        minibatch_size=64,
    )


@pytest.fixture
def observation() -> torch.Tensor:
    return torch.randn(512, 2, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("critic", [LinearCritic(vectors(2), ridge=1e-6), mlp()])
def test_learns_a_quadratic(critic: Critic, observation: torch.Tensor) -> None:
    target = 3 + observation[:, 0] - 0.5 * observation[:, 1].square()
    critic.fit(observation, target, progress=0.0)
    value = explained_variance(critic.predict(observation), target)
    assert value is not None
    assert value > 0.97


def test_linear_fit_is_least_squares(observation: torch.Tensor) -> None:
    target = observation[:, 0].exp()
    critic = LinearCritic(vectors(2), ridge=1e-9)
    critic.fit(observation, target, 0.0)
    features = torch.cat([observation, observation.square(), torch.ones(512, 1)], dim=1).double()
    best = features @ torch.linalg.lstsq(features, target.double()[:, None]).solution
    torch.testing.assert_close(critic.predict(observation).double(), best[:, 0], atol=1e-5, rtol=1e-5)


def test_values_stay_what_they_were_when_their_scale_moves(observation: torch.Tensor) -> None:
    """A batch of another scale moves the standardisation a little, and V not at all; only the fit does."""
    critic = mlp()
    critic.fit(observation, 100 + observation[:, 0], progress=0.0)
    before, std = critic.predict(observation), critic.std.item()
    critic.fit(observation, 5000 * observation[:, 1], progress=1.0)  # with a learning rate of 0
    torch.testing.assert_close(critic.predict(observation), before, rtol=1e-4, atol=1e-2)
    assert critic.std > 100 * std
    critic.fit(observation, torch.full((512,), 7.0), progress=1.0)
    torch.testing.assert_close(critic.predict(observation), before, rtol=1e-4, atol=1e-2)


def test_the_first_fit_starts_at_the_scale_of_its_batch(observation: torch.Tensor) -> None:
    critic = mlp()
    critic.fit(observation, 1e6 + 1e3 * observation[:, 0], progress=1.0)
    assert critic.predict(observation).mean() == pytest.approx(1e6, rel=0.01)


def test_zero_is_zero(observation: torch.Tensor) -> None:
    critic = ZeroCritic()
    critic.fit(observation, torch.ones(512), 0.0)
    assert not critic.predict(observation).any()


@pytest.mark.parametrize("critic", [LinearCritic(vectors(2), ridge=1e-6), mlp()])
def test_a_return_that_is_not_finite_changes_nothing(critic: Critic, observation: torch.Tensor) -> None:
    critic.fit(observation, observation.sum(1), 0.0)
    before, value = copy.deepcopy(critic), critic.predict(observation)
    critic.fit(observation, torch.full((512,), float("nan")), 0.0)
    assert torch.equal(critic.predict(observation), value)
    for one in (critic, before):  # the optimiser too is what it was
        one.fit(observation, observation[:, 0], 0.0)
    assert torch.equal(critic.predict(observation), before.predict(observation))


def test_decay_ends_learning(observation: torch.Tensor) -> None:
    critic = mlp()
    before = copy.deepcopy(list(critic.parameters()))
    critic.fit(observation, observation.sum(1), progress=1.0)
    assert all(torch.equal(old, new) for old, new in zip(before, critic.parameters(), strict=True))


def test_shared_critic_owns_its_head_alone(observation: torch.Tensor) -> None:
    policy = MLPPolicy(
        vectors(2), Categorical([2]), hidden_sizes=[8], activation="relu", output_gain=1.0, initial_log_std=0.0
    )
    critic = SharedCritic(policy, coefficient=0.5)
    assert set(critic.state_dict()) == {"head.weight", "head.bias"}
    (gradient,) = torch.autograd.grad(critic(observation).sum(), policy.trunk[0].weight)
    assert gradient.any()


def test_explained_variance() -> None:
    returns = torch.tensor([1.0, 2.0, 3.0])
    assert explained_variance(returns, returns) == 1.0
    assert explained_variance(torch.full((3,), 7.0), returns) == pytest.approx(0.0)
    assert explained_variance(-returns, returns) == pytest.approx(-3.0)
    assert explained_variance(returns, torch.ones(3)) is None
