"""Fully connected policies: seed 004, section 1.6; without hidden layers, the linear policy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from trpo_cli.distributions import DiagonalGaussian, Distribution
from trpo_cli.policies import Policy
from trpo_cli.ranges import Count, Finite, Positive

Activation = Literal["tanh", "relu", "elu", "silu"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU, "silu": nn.SiLU}


def orthogonal(layer: nn.Linear, gain: float) -> nn.Linear:
    """Orthogonal weights times `gain`, zero bias (Saxe et al. 2014)."""
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def hidden_layers(inputs: int, sizes: Sequence[int], activation: Activation) -> nn.Sequential:
    """Linear layers of the given widths, each followed by the activation; empty for no sizes."""
    layers: list[nn.Module] = []
    for width_in, width_out in zip([inputs, *sizes], sizes, strict=False):
        layers += [orthogonal(nn.Linear(width_in, width_out), math.sqrt(2)), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)


class MLPPolicy(Policy):
    """Observation (B, O) -> distribution parameters (B, P).

    For a Gaussian, the network gives the mean and the log standard deviation is a free vector; for categoricals it
    gives the logits.
    """

    def __init__(
        self,
        observation_size: int,
        distribution: Distribution,
        *,
        hidden_sizes: list[Count],
        activation: Activation,
        output_gain: Positive,
        initial_log_std: Finite,
    ) -> None:
        super().__init__()
        self.distribution = distribution
        self.trunk = hidden_layers(observation_size, hidden_sizes, activation)
        self.trunk_size = hidden_sizes[-1] if hidden_sizes else observation_size
        self.head = orthogonal(nn.Linear(self.trunk_size, distribution.network_size), output_gain)
        if isinstance(distribution, DiagonalGaussian):
            self.log_std = nn.Parameter(torch.full((distribution.network_size,), float(initial_log_std)))

    def forward(self, observation: Tensor) -> Tensor:
        output: Tensor = self.head(self.trunk(observation))
        if isinstance(self.distribution, DiagonalGaussian):
            return torch.cat([output, self.log_std.expand_as(output)], dim=-1)
        return output
