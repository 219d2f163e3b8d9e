"""What samplers and algorithms ask of a policy."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from trpo_cli.distributions import Distribution
from trpo_cli.networks import Linearisation, linearise


class Policy(nn.Module, ABC):
    """Observation -> distribution over actions; the module's parameters are theta.

    `trunk` maps observations (B, O) to the features (B, `trunk_size`) that a critic may share. A subclass has to say
    `forward` alone; `infer` and `linearise` can be written again where they can be faster.
    """

    distribution: Distribution
    trunk: nn.Module
    trunk_size: int

    @abstractmethod
    def forward(self, observation: Tensor) -> Tensor:
        """Distribution parameters (B, P) for observations (B, O)."""

    @torch.no_grad()
    def infer(self, observation: Tensor) -> Tensor:
        """`forward` without a graph, for acting."""
        return self(observation)  # type: ignore[no-any-return]

    def linearise(self, observation: Tensor) -> Linearisation:
        """Distribution parameters, and their products with the Jacobian by theta."""
        return linearise(self, observation)


def on_cpu(policy: Policy) -> Policy:
    """`policy` itself, or a copy of it as it is now where it learns on another device."""
    here = all(parameter.device.type == "cpu" for parameter in policy.parameters())
    return policy if here else copy.deepcopy(policy).cpu()
