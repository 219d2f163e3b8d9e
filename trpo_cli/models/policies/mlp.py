"""Fully connected policies (the TRPO paper, appendix D); without hidden layers, the linear policy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trpo_cli.data import Observations, ObservationSpec
from trpo_cli.models.distributions import DiagonalGaussian, Distribution
from trpo_cli.models.linearisation import Linearisation
from trpo_cli.models.networks import make_network
from trpo_cli.models.passes import Activation
from trpo_cli.models.policies import Actor, Array, FeaturePolicy
from trpo_cli.ranges import Count, Finite, Positive


class MLPPolicy(FeaturePolicy):
    """Observation (B, O) -> distribution parameters (B, P).

    For a Gaussian the network computes the mean, and the log standard deviation is a free vector; for categoricals it
    computes the logits. With `encoder_sizes` each entry of the observation goes through layers of its own first.
    """

    architecture = ("hidden_sizes", "activation", "encoder_sizes")

    def __init__(
        self,
        observation: ObservationSpec,
        distribution: Distribution,
        *,
        hidden_sizes: list[Count],
        activation: Activation,
        output_gain: Positive,
        initial_log_std: Finite,
        encoder_sizes: list[Count] | None = None,
    ) -> None:
        super().__init__()
        self.distribution = distribution
        size = distribution.network_size
        self.vectors, self.is_vector = observation.vectors, observation.is_vector
        self.network = make_network(
            observation,
            size,
            hidden_sizes=hidden_sizes,
            encoder_sizes=encoder_sizes,
            activation=activation,
            output_gain=output_gain,
        )
        self.feature_size = self.network.feature_size
        self.log_std: nn.Parameter | None = None
        if isinstance(distribution, DiagonalGaussian):
            self.log_std = nn.Parameter(torch.full((size,), float(initial_log_std)))

    def forward(self, observation: Tensor) -> Tensor:
        return self._with_log_std(self.network(self.vectors(observation)))

    def features(self, observation: Tensor) -> Tensor:
        return self.network.features(self.vectors(observation))

    @torch.no_grad()
    def infer(self, observation: Observations) -> Tensor:
        return self._with_log_std(self.network.infer(self.vectors(observation)))

    @torch.no_grad()
    def infer_each(self, thetas: Tensor, observation: Tensor) -> Tensor:
        observation = self.vectors(observation)
        if self.log_std is None:
            return self.network.infer_each(thetas, observation)
        size = len(self.log_std)
        return torch.cat([self.network.infer_each(thetas[:, size:], observation), thetas[:, :size]], dim=-1)

    def actor(self) -> Actor:
        if self.log_std is None:
            return super().actor()
        network, deviation = self.network.passes(1), self.log_std.detach().exp().numpy()

        def act(observation: Array, memory: Array, noise: Array | None) -> tuple[Array, Array]:
            vectors = observation if self.is_vector else self.vectors(torch.from_numpy(observation)).numpy()
            mean = network(vectors)
            return (mean if noise is None else mean + deviation * noise), memory

        return act

    @torch.no_grad()
    def linearise(self, observation: Observations) -> Linearisation:
        network = self.network.linearise(self.vectors(observation))
        if self.log_std is None:
            return network
        size = len(self.log_std)

        def jvp(v: Tensor) -> Tensor:
            log_std, rest = v[:size], v[size:]  # a module's own parameters come before those of its children
            mean = network.jvp(rest)
            return torch.cat([mean, log_std.expand_as(mean)], dim=-1)

        def vjp(u: Tensor) -> Tensor:
            return torch.cat([u[:, size:].sum(0), network.vjp(u[:, :size])])

        return Linearisation(self._with_log_std(network.output), jvp, vjp)

    def _with_log_std(self, output: Tensor) -> Tensor:
        return output if self.log_std is None else torch.cat([output, self.log_std.expand_as(output)], dim=-1)
