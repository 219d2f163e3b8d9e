"""Critics that share the layers of a policy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trpo_cli.data import Observations
from trpo_cli.errors import ConfigError
from trpo_cli.models.critics.base import Critic
from trpo_cli.models.layers import orthogonal
from trpo_cli.models.linearisation import Linearisation, linearise
from trpo_cli.models.policies import FeaturePolicy, Policy
from trpo_cli.ranges import NonNegative


class SharedCritic(Critic):
    """A value head on the features of a policy: `PolicyAndValue` learns both from one loss, so it has no `fit`.

    The layers that compute the features are the policy's own; the head alone is a part of this module and its state.
    """

    architecture = ()

    def __init__(self, policy: FeaturePolicy, *, coefficient: NonNegative) -> None:
        super().__init__()
        if not hasattr(policy, "feature_size"):
            raise ConfigError(
                f"critic: shared needs {type(policy).__name__}.feature_size, how many features `features` computes"
            )
        self.coefficient, self.works_in_pieces = coefficient, policy.works_in_pieces
        self.head = orthogonal(nn.Linear(policy.feature_size, 1), 1.0)
        self.features = policy.features
        self.infer_head, self.infer_with = policy.infer_head, policy.infer_with
        self.linearise_with = policy.linearise_with

    def forward(self, observation: Any) -> Tensor:
        return self.head(self.features(observation)).squeeze(-1)  # type: ignore[no-any-return]

    def predict(self, observation: Observations) -> Tensor:
        return self.infer_head(self.head, observation).squeeze(-1)


class PolicyAndValue(nn.Module):
    """A policy and the critic that shares its layers, as the one module that is fitted."""

    def __init__(self, policy: Policy, critic: SharedCritic) -> None:
        super().__init__()
        self.policy, self.critic = policy, critic

    def forward(self, observation: Any) -> Tensor:
        """Distribution parameters, and V(s) behind them: (B, P + 1)."""
        return torch.cat([self.policy(observation), self.critic(observation)[:, None]], dim=-1)

    def infer(self, observation: Observations) -> Tensor:
        """`forward` without a graph."""
        return self.critic.infer_with(self.critic.head, observation)

    def linearise(self, observation: Observations) -> Linearisation:
        """`forward`, and its products with the Jacobian by the parameters of both."""
        return self.critic.linearise_with(self.critic.head, observation) or linearise(
            self, self.policy.inputs(observation)
        )
