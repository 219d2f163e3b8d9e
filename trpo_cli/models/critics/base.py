"""What algorithms ask of a critic; and the one that says nothing."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trpo_cli.data import Frames, Observations, read, steps

Follower = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]
"""Observations (N, O) and memory (N, M) -> the memory after them, all on the CPU."""


class Critic(nn.Module, ABC):
    """A module whose forward pass is V(s)."""

    architecture: ClassVar[Sequence[str] | None] = None  # as of a policy
    works_in_pieces: bool = False  # as of a policy
    memory_size: int = 0  # its own; that of a policy whose features it shares does not count

    @abstractmethod
    def forward(self, observation: Any) -> Tensor:
        """V(s) (B,), differentiable where the critic has parameters; of `Sequences` if there is a memory."""

    @torch.no_grad()
    def predict(self, observation: Observations) -> Tensor:
        """V(s) (B,)."""
        return self(observation if self.memory_size else read(observation))  # type: ignore[no-any-return]

    def follower(self) -> Follower:
        """How its memory follows what a policy sees, while a rollout lasts."""
        return lambda observation, memory: memory

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
        stored = steps(observation)
        if isinstance(stored, Frames):  # there is nothing to read
            stored = stored.frame.new_empty((len(stored), 0))
        return super().predict(stored)


def explained_variance(value: Tensor, return_: Tensor) -> float | None:
    """1 - Var(return - value) / Var(return): 1 is perfect, 0 as good as a constant; None if all returns are equal."""
    variance = return_.double().var()
    ratio = ((return_.double() - value.double()).var() / variance).item()
    return 1.0 - ratio if math.isfinite(ratio) else None
