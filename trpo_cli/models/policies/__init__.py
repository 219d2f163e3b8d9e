"""What samplers and algorithms ask of a policy."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trpo_cli.models.distributions import Distribution
from trpo_cli.models.linearisation import Linearisation, linearise, outputs

Array = NDArray[Any]
Actor = Callable[[Array, Array], Array]
"""Observations (N, O) float32 and noise (N, K) float32 -> actions (N, A), all on the CPU."""


class Policy(nn.Module, ABC):
    """Observation -> distribution over actions; the module's parameters are theta.

    `trunk` maps observations (B, O) to the features (B, `trunk_size`) that a critic may share. A subclass has to say
    `forward` alone; the others can be written again where they can be faster.
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

    @torch.no_grad()
    def infer_each(self, thetas: Tensor, observation: Tensor) -> Tensor:
        """`infer` (B, P) with a theta of its own, of `thetas` (B, D), for each observation (B, O)."""
        each = torch.func.vmap(lambda theta, row: outputs(self, theta, row[None])[0])
        return each(thetas, observation)

    def actor(self) -> Actor:
        """How the policy acts as it is now, while a rollout lasts."""
        distribution = self.distribution

        @torch.no_grad()
        def act(observation: Array, noise: Array) -> Array:
            parameters = self.infer(torch.from_numpy(observation))
            return distribution.sample(parameters, torch.from_numpy(noise)).numpy()

        return act

    def linearise(self, observation: Tensor) -> Linearisation:
        """Distribution parameters, and their products with the Jacobian by theta."""
        return linearise(self, observation)


def on_cpu(policy: Policy) -> Policy:
    """`policy` itself, or a copy of it as it is now where it learns on another device."""
    here = all(parameter.device.type == "cpu" for parameter in policy.parameters())
    return policy if here else copy.deepcopy(policy).cpu()
