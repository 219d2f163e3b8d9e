"""State-value estimates V(s), against which advantages are measured."""

from __future__ import annotations

import copy
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from trpo_cli.data import Frames, Observations, ObservationSpec, read
from trpo_cli.errors import ConfigError
from trpo_cli.models.adam import Adam
from trpo_cli.models.convolutions import Convolution
from trpo_cli.models.helper import FittedByHelper
from trpo_cli.models.layers import orthogonal
from trpo_cli.models.linearisation import Linearisation, linearise, share_memory, size
from trpo_cli.models.networks import make_network
from trpo_cli.models.passes import Activation
from trpo_cli.models.policies import FeaturePolicy, Policy
from trpo_cli.ranges import Count, NonNegative, Positive
from trpo_cli.shards import ONE, Shards
from trpo_cli.threads import workers

EPSILON = 1e-6  # keeps equal returns from dividing by zero
RATE = 0.05  # the weight of the newest batch in the moving averages


class Critic(nn.Module, ABC):
    """A module whose forward pass is V(s)."""

    architecture: ClassVar[Sequence[str] | None] = None  # as of a policy
    works_in_pieces: bool = False  # as of a policy

    @abstractmethod
    def forward(self, observation: Tensor) -> Tensor:
        """V(s) (B,), differentiable where the critic has parameters."""

    @torch.no_grad()
    def predict(self, observation: Observations) -> Tensor:
        """V(s) (B,)."""
        return self(read(observation))  # type: ignore[no-any-return]

    def close(self) -> None:
        """End the helper process, if there is one."""


@runtime_checkable
class Fitted(Protocol):
    """A critic that is fitted by itself, once an iteration, after the advantages have been taken."""

    def fit(self, observations: Sequence[Observations], return_: Tensor) -> None:
        """Move V(s) towards the returns (B,) of all shards in their order.

        The observations (M, O) are those of each shard of this process. A fit that would leave a parameter that is not
        finite changes nothing.
        """


class ZeroCritic(Critic):
    """V = 0 everywhere: no baseline."""

    works_in_pieces = True  # of nothing

    def forward(self, observation: Tensor) -> Tensor:
        dtype = observation.dtype if observation.is_floating_point() else torch.float32
        return observation.new_zeros(len(observation), dtype=dtype)

    def predict(self, observation: Observations) -> Tensor:
        if isinstance(observation, Frames):  # there is nothing to read
            observation = observation.frame.new_empty((len(observation), 0))
        return super().predict(observation)


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


class MLPCritic(FittedByHelper, Critic):
    """A fully connected network, also behind convolutions, fitted by minibatches of Adam on the squared error.

    The network predicts standardised returns, V = mean + std * network, so that one learning rate suits rewards of any
    scale. Mean and deviation are moving averages over batches, because the returns of a single batch, with or without
    failures, may be on quite another scale. When they move, the last layer moves against them, and V stays what it was
    (Pop-Art: van Hasselt et al. 2016).
    """

    architecture = ("hidden_sizes", "activation", "encoder_sizes", "convolutions")
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
        *,
        hidden_sizes: list[Count],
        activation: Activation,
        learning_rate: Positive,
        epochs: Count,
        minibatch_size: Count,
        encoder_sizes: list[Count] | None = None,
        convolutions: list[Convolution] | None = None,
    ) -> None:
        super().__init__()
        self.network = make_network(
            observation,
            1,
            hidden_sizes=hidden_sizes,
            encoder_sizes=encoder_sizes,
            convolutions=convolutions,
            activation=activation,
            output_gain=1.0,
            role="critic",
        )
        self.works_in_pieces = self.network.works_in_pieces
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

    def forward(self, observation: Tensor) -> Tensor:
        self.finish_fit()
        return self.mean + self.std * self.network(observation).squeeze(-1)  # type: ignore[no-any-return]

    @torch.no_grad()
    def predict(self, observation: Observations) -> Tensor:
        self.finish_fit()
        if self.works_in_pieces:
            return self.mean + self.std * self.network.infer(observation).squeeze(-1)
        return super().predict(observation)

    @torch.no_grad()
    def fit_here(self, observations: Sequence[Observations], return_: Tensor) -> None:
        before = copy.deepcopy(self.state_dict())
        theta, shards = share_memory(self.network), self.shards
        self._standardise(return_)
        rows = len(return_) // shards.count
        size = min(self.minibatch_size // shards.count, rows)
        linearise = self.network.linearising(size)
        targets = shards.split(((return_ - self.mean) / self.std)[:, None])
        for _ in range(self.epochs):
            order = torch.randperm(rows, generator=self.generator).to(return_.device)
            for chosen in order.split(size):
                slope = functools.partial(self._slope, linearise, chosen)
                (gradient,) = shards.sum(shards.each(slope, observations, targets))
                self.optimizer.step(theta, gradient, self.learning_rate)
        if not theta.isfinite().all():
            self.load_state_dict(before)

    def _slope(
        self,
        linearise: Callable[[Observations], Linearisation],
        rows: Tensor,
        observation: Observations,
        target: Tensor,
    ) -> tuple[Tensor]:
        """What the given rows of one shard add to the gradient of the mean squared error."""
        value, wanted = linearise(observation[rows]), target[rows]
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

    def forward(self, observation: Tensor) -> Tensor:
        return self.head(self.features(observation)).squeeze(-1)  # type: ignore[no-any-return]

    def predict(self, observation: Observations) -> Tensor:
        return self.infer_head(self.head, observation).squeeze(-1)


class PolicyAndValue(nn.Module):
    """A policy and the critic that shares its layers, as the one module that is fitted."""

    def __init__(self, policy: Policy, critic: SharedCritic) -> None:
        super().__init__()
        self.policy, self.critic = policy, critic

    def forward(self, observation: Tensor) -> Tensor:
        """Distribution parameters, and V(s) behind them: (B, P + 1)."""
        return torch.cat([self.policy(observation), self.critic(observation)[:, None]], dim=-1)

    def infer(self, observation: Observations) -> Tensor:
        """`forward` without a graph."""
        return self.critic.infer_with(self.critic.head, observation)

    def linearise(self, observation: Observations) -> Linearisation:
        """`forward`, and its products with the Jacobian by the parameters of both."""
        return self.critic.linearise_with(self.critic.head, observation) or linearise(self, read(observation))


def explained_variance(value: Tensor, return_: Tensor) -> float | None:
    """1 - Var(return - value) / Var(return): 1 is perfect, 0 as good as a constant; None if all returns are equal."""
    variance = return_.double().var()
    ratio = ((return_.double() - value.double()).var() / variance).item()
    return 1.0 - ratio if math.isfinite(ratio) else None
