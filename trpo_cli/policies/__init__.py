"""What samplers and algorithms ask of a policy."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from trpo_cli.distributions import Distribution


class Policy(nn.Module, ABC):
    """Observation -> distribution over actions; the module's parameters are theta.

    `trunk` maps observations (B, O) to the features (B, `trunk_size`) that a critic may share.
    """

    distribution: Distribution
    trunk: nn.Module
    trunk_size: int

    @abstractmethod
    def forward(self, observation: Tensor) -> Tensor:
        """Distribution parameters (B, P) for observations (B, O)."""
