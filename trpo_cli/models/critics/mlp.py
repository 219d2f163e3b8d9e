"""Critics with a network of their own, which is fitted by itself."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trpo_cli.data import Observations, ObservationSpec, length_of
from trpo_cli.models.adam import Adam
from trpo_cli.models.cells import Memory
from trpo_cli.models.convolutions import Convolution
from trpo_cli.models.critics.base import Critic, Follower
from trpo_cli.models.helper import FittedByHelper
from trpo_cli.models.linearisation import Linearisation, share_memory, size
from trpo_cli.models.networks import make_network
from trpo_cli.models.passes import Activation
from trpo_cli.models.policies import Policy
from trpo_cli.models.rnn import RNN
from trpo_cli.ranges import Count, Positive, Span
from trpo_cli.shards import ONE, Shards
from trpo_cli.threads import workers

EPSILON = 1e-6  # keeps equal returns from dividing by zero
RATE = 0.05  # the weight of the newest batch in the moving averages


class MLPCritic(FittedByHelper, Critic):
    """A fully connected network, also behind convolutions, fitted by minibatches of Adam on the squared error.

    The network predicts standardised returns, V = mean + std * network, so that one learning rate suits rewards of any
    scale. Mean and deviation are moving averages over batches, because the returns of a single batch, with or without
    failures, may be on quite another scale. When they move, the last layer moves against them, and V stays what it was
    (Pop-Art: van Hasselt et al. 2016).
    """

    architecture = ("memory", "memory_size", "hidden_sizes", "activation", "encoder_sizes", "convolutions")
    settings = ("learning_rate", "epochs", "minibatch_size")
    divided = ("minibatch_size",)  # among shards
    mean: Tensor
    std: Tensor
    fits: Tensor

    def __init__(
        self,
        observation: ObservationSpec,
        generator: torch.Generator,
        shards: Shards = ONE,
        policy: Policy | None = None,
        *,
        hidden_sizes: list[Count],
        activation: Activation,
        learning_rate: Positive,
        epochs: Count,
        minibatch_size: Count,
        encoder_sizes: list[Count] | None = None,
        convolutions: list[Convolution] | None = None,
        memory: Memory | None = None,
        memory_size: Count | None = None,
        memory_span: Span | None = None,
    ) -> None:
        """What a critic remembers stands behind the memory of the `policy`."""
        super().__init__()
        self.network = make_network(
            observation,
            1,
            hidden_sizes=hidden_sizes,
            encoder_sizes=encoder_sizes,
            convolutions=convolutions,
            memory=memory,
            memory_size=memory_size,
            memory_span=memory_span,
            skipped=policy.memory_size if policy else 0,
            activation=activation,
            output_gain=1.0,
            role="critic",
        )
        self.works_in_pieces, self.memory_size = self.network.works_in_pieces, self.network.memory_size
        # With convolutions, both the policy and the critic would want all cores.
        self.may_use_helper = workers() > 1 and shards.ranks.size == 1 and not self.works_in_pieces
        share_memory(self.network)  # as after a fit: a resumed run then rounds as one that was never interrupted
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))
        self.register_buffer("fits", torch.zeros(()))
        self.generator = generator
        self.learning_rate = learning_rate
        self.epochs, self.minibatch_size, self.shards = epochs, minibatch_size, shards
        shards.divide(minibatch_size, "critic.minibatch_size")
        self.optimizer = Adam(size(self.network))

    def forward(self, observation: Any) -> Tensor:
        self.finish_fit()
        return self.mean + self.std * self.network(observation).squeeze(-1)  # type: ignore[no-any-return]

    @torch.no_grad()
    def predict(self, observation: Observations) -> Tensor:
        self.finish_fit()
        if self.works_in_pieces or self.memory_size:
            return self.mean + self.std * self.network.infer(observation).squeeze(-1)
        return super().predict(observation)

    def follower(self) -> Follower:
        self.finish_fit()
        return self.network.following() if isinstance(self.network, RNN) else super().follower()

    @torch.no_grad()
    def fit_here(self, observations: Sequence[Observations], return_: Tensor) -> None:
        before = copy.deepcopy(self.state_dict())
        theta, shards = share_memory(self.network), self.shards
        self._standardise(return_)
        units, length = len(observations[0]), length_of(observations[0])
        size = min(self.minibatch_size // shards.count, units * length)
        linearise = self.network.linearising(size)
        targets = shards.split(((return_ - self.mean) / self.std).view(-1, length, 1))
        for _ in range(self.epochs):
            order = torch.randperm(units, generator=self.generator).to(return_.device)
            for chosen in order.split(max(1, size // length)):
                slope = functools.partial(self._slope, linearise, chosen)
                (gradient,) = shards.sum(shards.each(slope, observations, targets))
                self.optimizer.step(theta, gradient, self.learning_rate)
        if not theta.isfinite().all():
            self.load_state_dict(before)

    def _slope(
        self,
        linearise: Callable[[Observations], Linearisation],
        chosen: Tensor,
        observation: Observations,
        target: Tensor,
    ) -> tuple[Tensor]:
        """What the chosen states or sequences of one shard add to the gradient of the mean squared error."""
        value, wanted = linearise(observation[chosen]), target[chosen].flatten(0, 1)
        return (value.vjp((value.output - wanted).mul_(2 / (len(wanted) * self.shards.count))),)

    def _standardise(self, return_: Tensor) -> None:
        """Move mean and std towards those of the returns (B,), and the last layer so that V stays."""
        self.fits += 1
        rate = max(RATE, 1 / self.fits.item())
        old_mean, old_std, away = self.mean.clone(), self.std.clone(), return_.mean() - self.mean
        variance = (1 - rate) * (old_std.square() + rate * away.square()) + rate * return_.var(correction=0)
        self.mean += rate * away
        self.std.copy_(variance.sqrt().clamp(min=EPSILON))
        if rate < 1:  # before the first fit V means nothing yet
            last = self.network.head
            last.weight.mul_(old_std / self.std)
            last.bias.mul_(old_std).add_(old_mean - self.mean).div_(self.std)

    def get_extra_state(self) -> dict[str, Any]:
        """The generator, which the next fit depends on too; part of `state_dict`."""
        return {"generator": self.generator.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])
