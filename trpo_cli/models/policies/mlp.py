"""Fully connected policies (the TRPO paper, appendix D), also behind convolutions; without hidden layers, linear."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trpo_cli.data import Observations, ObservationSpec
from trpo_cli.models.cells import Memory
from trpo_cli.models.convolutions import Convolution
from trpo_cli.models.distributions import DiagonalGaussian, Distribution
from trpo_cli.models.linearisation import Linearisation
from trpo_cli.models.mlp import Act
from trpo_cli.models.networks import make_network
from trpo_cli.models.passes import Activation
from trpo_cli.models.policies import Actor, Array, FeaturePolicy
from trpo_cli.models.rnn import RNN
from trpo_cli.ranges import Count, Finite, Positive, Span


class MLPPolicy(FeaturePolicy):
    """Observation (B, O) -> distribution parameters (B, P).

    For a Gaussian the network computes the mean, and the log standard deviation is a free vector; for categoricals it
    computes the logits. With `encoder_sizes` each entry of the observation goes through layers of its own first, and
    with `convolutions` images do. A `memory` of `memory_size` units stands behind these layers, which then are common
    to all entries, and in front of the hidden ones.
    """

    architecture = ("memory", "memory_size", "hidden_sizes", "activation", "encoder_sizes", "convolutions")

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
        convolutions: list[Convolution] | None = None,
        memory: Memory | None = None,
        memory_size: Count | None = None,
        memory_span: Span | None = None,
    ) -> None:
        super().__init__()
        self.distribution = distribution
        size = distribution.network_size
        self.network = make_network(
            observation,
            size,
            hidden_sizes=hidden_sizes,
            encoder_sizes=encoder_sizes,
            convolutions=convolutions,
            memory=memory,
            memory_size=memory_size,
            memory_span=memory_span,
            activation=activation,
            output_gain=output_gain,
            role="policy",
        )
        self.feature_size, self.works_in_pieces = self.network.feature_size, self.network.works_in_pieces
        self.memory_size = self.network.memory_size
        self.log_std: nn.Parameter | None = None
        if isinstance(distribution, DiagonalGaussian):
            self.log_std = nn.Parameter(torch.full((size,), float(initial_log_std)))

    def forward(self, observation: Any) -> Tensor:
        return self._with_log_std(self.network(observation))

    def features(self, observation: Any) -> Tensor:
        return self.network.features(observation)

    @torch.no_grad()
    def infer(self, observation: Observations) -> Tensor:
        return self._with_log_std(self.network.infer(observation))

    @torch.no_grad()
    def infer_each(self, thetas: Tensor, observation: Tensor) -> Tensor:
        assert not isinstance(self.network, RNN)  # whose actors have a memory
        if self.log_std is None:
            return self.network.infer_each(thetas, observation)
        size = len(self.log_std)
        return torch.cat([self.network.infer_each(thetas[:, size:], observation), thetas[:, :size]], dim=-1)

    def actor(self) -> Actor:
        network = self.network.acting()
        if self.log_std is None:
            return self._acting(network)
        return _acting_around(network, self.log_std.detach())

    def actor_each(self, thetas: Tensor) -> Actor:
        if not isinstance(self.network, RNN):
            return super().actor_each(thetas)
        if self.log_std is None:
            return self._acting(self.network.acting_each(thetas))
        log_std, others = thetas.split([len(self.log_std), thetas.shape[1] - len(self.log_std)], 1)
        return _acting_around(self.network.acting_each(others), log_std)

    @torch.no_grad()
    def linearise(self, observation: Observations) -> Linearisation:
        return self._with_deviations(self.network.linearise(observation))

    def outputs(self, theta: Tensor, observation: Observations, known: Tensor | None = None) -> Tensor:
        if self.log_std is None:
            return self.network.outputs(theta, observation, known)
        size = len(self.log_std)
        log_std, others = theta.split([size, len(theta) - size])
        output = self.network.outputs(others, observation, None if known is None else known[:, :size])
        return torch.cat([output, log_std.expand_as(output)], dim=-1)

    @torch.no_grad()
    def infer_head(self, head: nn.Linear, observation: Observations) -> Tensor:
        return self.network.infer_head(head, observation)

    @torch.no_grad()
    def infer_with(self, head: nn.Linear, observation: Observations) -> Tensor:
        output = self.network.infer_with(head, observation)
        return output if self.log_std is None else _insert(output, self.log_std)

    @torch.no_grad()
    def linearise_with(self, head: nn.Linear, observation: Observations) -> Linearisation | None:
        network = self.network.linearise_with(head, observation)
        return network and self._with_deviations(network)

    def _with_deviations(self, network: Linearisation) -> Linearisation:
        """The same with log standard deviations behind the means, and before what further heads say."""
        if self.log_std is None:
            return network
        log_std, size = self.log_std.detach(), len(self.log_std)

        def jvp(v: Tensor) -> Tensor:
            return _insert(network.jvp(v[size:]), v[:size])  # a module's own parameters come before its children's

        def vjp(u: Tensor) -> Tensor:
            of_mean, of_log_std, others = u[:, :size], u[:, size : 2 * size], u[:, 2 * size :]
            by_network = torch.cat([of_mean, others], dim=-1) if others.numel() else of_mean
            return torch.cat([of_log_std.sum(0), network.vjp(by_network)])

        return Linearisation(_insert(network.output, log_std), jvp, vjp)

    def _with_log_std(self, output: Tensor) -> Tensor:
        return output if self.log_std is None else torch.cat([output, self.log_std.expand_as(output)], dim=-1)


def _acting_around(network: Act, log_std: Tensor) -> Actor:
    """An actor around the means that the network computes, with these log standard deviations (A,) or (N, A)."""
    deviation = log_std.exp().numpy()

    def act(observation: Array, memory: Array, noise: Array | None) -> tuple[Array, Array]:
        mean, memory = network(observation, memory)
        return (mean if noise is None else mean + deviation * noise), memory

    return act


def _insert(output: Tensor, log_std: Tensor) -> Tensor:
    """Put log standard deviations (A,) behind the means, the first A outputs, and before what further heads say."""
    mean, others = output[:, : len(log_std)], output[:, len(log_std) :]
    return torch.cat([mean, log_std.expand_as(mean), others], dim=-1)
