"""What samplers and algorithms need from a policy."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trpo_cli.data import Observations, Sequences, read
from trpo_cli.models.distributions import Distribution
from trpo_cli.models.linearisation import Linearisation, linearise, outputs

Array = NDArray[Any]
Actor = Callable[[Array, Array, Array | None], tuple[Array, Array]]
"""Observations (N, O), memory (N, M) and noise (N, K) -> actions (N, A) and the memory after them, all on the CPU.

Without noise the actions are the likeliest ones.
"""


class Policy(nn.Module, ABC):
    """Observation -> distribution over actions; the module's parameters are theta.

    A subclass has to define `forward` alone; the other methods can be overridden by faster ones, which may also read
    observations frame by frame.
    """

    distribution: Distribution
    memory_size: int = 0  # numbers that it keeps from one step of an episode to the next
    architecture: ClassVar[Sequence[str] | None] = None
    """The keys that decide which function of its parameters it is, in which a run that lends them must agree; None if
    all may."""
    works_in_pieces: bool = False  # shared among threads, so that torch needs none of its own

    @abstractmethod
    def forward(self, observation: Any) -> Tensor:
        """Distribution parameters (B, P) for observations (B, O), a tensor; for `Sequences` if there is a memory."""

    @torch.no_grad()
    def infer(self, observation: Observations) -> Tensor:
        """`forward` without a graph, for acting."""
        return self(self.inputs(observation))  # type: ignore[no-any-return]

    def inputs(self, observation: Observations) -> Tensor | Sequences:
        """What `forward` reads: observations (B, O), or the sequences that lead to them if it has a memory."""
        return observation if self.memory_size else read(observation)  # type: ignore[return-value]

    @torch.no_grad()
    def infer_each(self, thetas: Tensor, observation: Tensor) -> Tensor:
        """`infer` (B, P), each observation (B, O) with the parameters in its row of `thetas` (B, D)."""
        each = torch.func.vmap(lambda theta, row: outputs(self, theta, row[None])[0])
        return each(thetas, observation)

    def actor(self) -> Actor:
        """How the policy acts as it is now, while a rollout lasts."""
        return self._acting(lambda observation, memory: (self.infer(torch.from_numpy(observation)).numpy(), memory))

    def actor_each(self, thetas: Tensor) -> Actor:
        """How N policies act, each with a theta of its own, of `thetas` (N, D), in an environment of its own."""

        def infer(observation: Array, memory: Array) -> tuple[Array, Array]:
            return self.infer_each(thetas, torch.from_numpy(observation)).numpy(), memory

        return self._acting(infer)

    def _acting(self, infer: Callable[[Array, Array], tuple[Array, Array]]) -> Actor:
        """An actor, given how observations (N, O) and memory become distribution parameters (N, P) and memory."""
        distribution = self.distribution

        @torch.no_grad()
        def act(observation: Array, memory: Array, noise: Array | None) -> tuple[Array, Array]:
            found, memory = infer(observation, memory)
            parameters = torch.from_numpy(found)
            if noise is None:
                return distribution.mode(parameters).numpy(), memory
            return distribution.sample(parameters, torch.from_numpy(noise)).numpy(), memory

        return act

    def linearise(self, observation: Observations) -> Linearisation:
        """Distribution parameters, and their products with the Jacobian by theta."""
        return linearise(self, self.inputs(observation))

    def outputs(self, theta: Tensor, observation: Observations, known: Tensor | None = None) -> Tensor:
        """Distribution parameters (B, P) of the policy with the parameters `theta` (D,), with a graph.

        If these are its own parameters, the result may be `known` already, bit for bit as `infer` computes it, and need
        not be computed then.
        """
        return outputs(self, theta, self.inputs(observation))


class FeaturePolicy(Policy):
    """A policy that computes features of the observation, which a critic can share."""

    feature_size: int

    @abstractmethod
    def features(self, observation: Tensor | Sequences) -> Tensor:
        """Features (B, `feature_size`) of observations (B, O), with a graph."""

    @torch.no_grad()
    def infer_head(self, head: nn.Linear, observation: Observations) -> Tensor:
        """What another head (B, out) makes of the features, without a graph."""
        return head(self.features(self.inputs(observation)))  # type: ignore[no-any-return]

    @torch.no_grad()
    def infer_with(self, head: nn.Linear, observation: Observations) -> Tensor:
        """Distribution parameters, and behind them the outputs of another head, without a graph."""
        return torch.cat([self.infer(observation), self.infer_head(head, observation)], dim=-1)

    def linearise_with(self, head: nn.Linear, observation: Observations) -> Linearisation | None:
        """Distribution parameters, and behind them the outputs of another head, which has the last parameters.

        None if there is no faster way than automatic differentiation.
        """
        return None


def on_cpu(policy: Policy) -> Policy:
    """`policy` itself, or a copy of it as it is now where it learns on another device."""
    here = all(parameter.device.type == "cpu" for parameter in policy.parameters())
    return policy if here else copy.deepcopy(policy).cpu()
