"""State-value estimates V(s), against which advantages are measured."""

from trpo_cli.models.critics.accompanied import Accompanied
from trpo_cli.models.critics.base import Critic, Fitted, ZeroCritic, explained_variance
from trpo_cli.models.critics.linear import LinearCritic
from trpo_cli.models.critics.mlp import MLPCritic
from trpo_cli.models.critics.shared import PolicyAndValue, SharedCritic

__all__ = [
    "Accompanied",
    "Critic",
    "Fitted",
    "LinearCritic",
    "MLPCritic",
    "PolicyAndValue",
    "SharedCritic",
    "ZeroCritic",
    "explained_variance",
]
