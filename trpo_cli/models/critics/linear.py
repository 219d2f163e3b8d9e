"""A critic that is linear in a few features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trpo_cli.data import Observations, ObservationSpec
from trpo_cli.models.critics.base import Critic
from trpo_cli.ranges import Positive
from trpo_cli.shards import ONE, Shards


class LinearCritic(Critic):
    """Ridge regression on the observation, its square and a constant (Duan et al. 2016, less the time features)."""

    architecture = ()

    def __init__(self, observation: ObservationSpec, shards: Shards = ONE, *, ridge: Positive) -> None:
        super().__init__()
        self.ridge, self.vectors, self.shards = ridge, observation.vectors, shards
        self.weights: Tensor
        self.register_buffer("weights", torch.zeros(2 * observation.size + 1, dtype=torch.float64))

    def _features(self, observation: Observations) -> Tensor:
        x = self.vectors(observation).double()
        return torch.cat([x, x.square(), x.new_ones(len(x), 1)], dim=-1)

    def forward(self, observation: Tensor) -> Tensor:
        return (self._features(observation) @ self.weights).to(self.vectors(observation).dtype)

    def fit(self, observations: Sequence[Observations], return_: Tensor) -> None:
        def correlate(observation: Observations, target: Tensor) -> tuple[Tensor, Tensor]:
            x = self._features(observation)
            return x.T @ x, x.T @ target

        shards = self.shards
        gram, moment = shards.sum(shards.each(correlate, observations, shards.split(return_.double())))
        gram = gram + self.ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        weights, failed = torch.linalg.solve_ex(gram, moment)
        if not failed and weights.isfinite().all():
            self.weights.copy_(weights)
