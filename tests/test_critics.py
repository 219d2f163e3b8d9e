"""Critics: each learns what it can express, and none is spoilt by a return that is not finite."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import vectors

from trpo_cli.config.build import build
from trpo_cli.errors import ConfigError
from trpo_cli.models.critics import (
    Critic,
    Fitted,
    LinearCritic,
    MLPCritic,
    PolicyAndValue,
    SharedCritic,
    ZeroCritic,
    explained_variance,
)
from trpo_cli.models.distributions import Categorical
from trpo_cli.models.linearisation import size
from trpo_cli.models.policies import Policy
from trpo_cli.models.policies.mlp import MLPPolicy
from trpo_cli.models.policies.tabular import TabularPolicy


def mlp(width: int = 32) -> MLPCritic:
    torch.manual_seed(0)
    return MLPCritic(
        vectors(2),
        torch.Generator().manual_seed(0),
        hidden_sizes=[width],
        activation="tanh",
        learning_rate=1e-2,
        epochs=60,
        minibatch_size=64,
    )


@pytest.fixture
def observation() -> torch.Tensor:
    return torch.randn(512, 2, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("critic", [LinearCritic(vectors(2), ridge=1e-6), mlp()])
def test_learns_a_quadratic(critic: Critic, observation: torch.Tensor) -> None:
    target = 3 + observation[:, 0] - 0.5 * observation[:, 1].square()
    critic.fit([observation], target)
    value = explained_variance(critic.predict(observation), target)
    assert value is not None
    assert value > 0.97


def test_linear_fit_is_least_squares(observation: torch.Tensor) -> None:
    target = observation[:, 0].exp()
    critic = LinearCritic(vectors(2), ridge=1e-9)
    critic.fit([observation], target)
    features = torch.cat([observation, observation.square(), torch.ones(512, 1)], dim=1).double()
    best = features @ torch.linalg.lstsq(features, target.double()[:, None]).solution
    torch.testing.assert_close(critic.predict(observation).double(), best[:, 0], atol=1e-5, rtol=1e-5)


def test_values_stay_what_they_were_when_their_scale_moves(observation: torch.Tensor) -> None:
    """A batch of another scale moves the standardisation a little, and V not at all; only the fit does."""
    critic = mlp()
    critic.fit([observation], 100 + observation[:, 0])
    before, std = critic.predict(observation), critic.std.item()
    critic.learning_rate = 0.0
    critic.fit([observation], 5000 * observation[:, 1])
    torch.testing.assert_close(critic.predict(observation), before, rtol=1e-4, atol=1e-2)
    assert critic.std > 100 * std
    critic.fit([observation], torch.full((512,), 7.0))
    torch.testing.assert_close(critic.predict(observation), before, rtol=1e-4, atol=1e-2)


def test_the_first_fit_starts_at_the_scale_of_its_batch(observation: torch.Tensor) -> None:
    critic = mlp()
    critic.learning_rate = 0.0
    critic.fit([observation], 1e6 + 1e3 * observation[:, 0])
    assert critic.predict(observation).mean() == pytest.approx(1e6, rel=0.01)


def test_zero_is_zero(observation: torch.Tensor) -> None:
    assert not ZeroCritic().predict(observation).any()


def test_only_what_learns_by_itself_is_fitted() -> None:
    assert all(isinstance(critic, Fitted) for critic in (LinearCritic(vectors(2), ridge=1e-6), mlp()))
    policy = MLPPolicy(
        vectors(2), Categorical([2]), hidden_sizes=[8], activation="relu", output_gain=1.0, initial_log_std=0.0
    )
    assert not any(isinstance(critic, Fitted) for critic in (ZeroCritic(), SharedCritic(policy, coefficient=0.5)))


@pytest.mark.parametrize("critic", [LinearCritic(vectors(2), ridge=1e-6), mlp()])
def test_a_return_that_is_not_finite_changes_nothing(critic: Critic, observation: torch.Tensor) -> None:
    critic.fit([observation], observation.sum(1))
    before, value = copy.deepcopy(critic), critic.predict(observation)
    critic.fit([observation], torch.full((512,), float("nan")))
    assert torch.equal(critic.predict(observation), value)
    for one in (critic, before):  # the optimiser too is what it was
        one.fit([observation], observation[:, 0])
    assert torch.equal(critic.predict(observation), before.predict(observation))


def test_a_loaded_critic_rounds_as_the_one_that_was_saved(observation: torch.Tensor) -> None:
    """How a product of an odd number of rows with one column rounds depends on where in memory the column begins."""
    saved, loaded = mlp(33), mlp(33)
    saved.fit([observation], observation.sum(1))
    loaded.load_state_dict(saved.state_dict())
    for rows in range(1, 40):
        assert torch.equal(loaded.predict(observation[:rows]), saved.predict(observation[:rows]))


def test_shared_critic_owns_its_head_alone(observation: torch.Tensor) -> None:
    policy = MLPPolicy(
        vectors(2), Categorical([2]), hidden_sizes=[8], activation="relu", output_gain=1.0, initial_log_std=0.0
    )
    critic = SharedCritic(policy, coefficient=0.5)
    assert set(critic.state_dict()) == {"head.weight", "head.bias"}
    (gradient,) = torch.autograd.grad(critic(observation).sum(), policy.network.trunk[0].weight)
    assert gradient.any()


class Headless(Policy):
    """A policy of a user's that says nothing of features."""

    def __init__(self) -> None:
        super().__init__()
        self.distribution, self.layer = Categorical([2]), torch.nn.Linear(2, 2)

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return self.layer(observation)  # type: ignore[no-any-return]


def test_a_policy_without_features_is_refused() -> None:
    node = {"_target_": "trpo_cli.models.critics.SharedCritic", "coefficient": 0.5}
    for policy in (Headless(), TabularPolicy(vectors(4, 4), Categorical([2]))):
        told = f"policy: {type(policy).__name__} does not go with critic=shared: policy=mlp does"
        with pytest.raises(ConfigError, match=told):
            build(node, "critic", Critic, chosen={"critic": "shared"}, policy=policy)


def test_the_joint_model_counts_each_parameter_once() -> None:
    policy = MLPPolicy(
        vectors(2), Categorical([2]), hidden_sizes=[8], activation="relu", output_gain=1.0, initial_log_std=0.0
    )
    model = PolicyAndValue(policy, SharedCritic(policy, coefficient=0.5))
    assert size(model) == size(policy) + 9
    assert len(model.state_dict()) == len(policy.state_dict()) + 2


def test_explained_variance() -> None:
    returns = torch.tensor([1.0, 2.0, 3.0])
    assert explained_variance(returns, returns) == 1.0
    assert explained_variance(torch.full((3,), 7.0), returns) == pytest.approx(0.0)
    assert explained_variance(-returns, returns) == pytest.approx(-3.0)
    assert explained_variance(returns, torch.ones(3)) is None
