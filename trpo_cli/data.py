"""Records of data: the `Sample` that a sampler collects, and the flat `Batch` that an update reads.

Sizes: T time steps, N environments, S states, K actions tried in each (one along a single path), A action numbers,
P distribution parameters. `O` stands for the shape of one observation, one number for vectors. Observations of many
steps are one tensor, or `Frames` where consecutive ones share what they show.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

Predict = Callable[["Observations"], Tensor]
"""Observations (M, O) -> V(s) (M,)."""
Advantage = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, float], Tensor]
"""reward, value, next_value, terminated, truncated, all (T, N), and gamma -> advantage (T, N): see `returns.py`."""


def shows_image(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Whether arrays like this hold pixels: of one number each, or of several, such as colours."""
    return dtype in (np.uint8, np.bool_) and len(shape) in (2, 3)


@dataclass(frozen=True)
class Entry:
    """One of the things that an observation shows, and where it lies in the flat observation."""

    name: str  # such as `desired_goal`, or `hand.0` for the first of a tuple within; empty for a whole observation
    shape: tuple[int, ...]
    start: int
    dtype: np.dtype[Any]  # of the environment's array
    is_numeric: bool = True  # False: zeros and ones that stand for choices, which are never scaled

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def place(self) -> slice:
        """Its stretch of the flat observation."""
        return slice(self.start, self.start + self.size)

    @property
    def is_image(self) -> bool:
        return shows_image(self.shape, self.dtype)


@dataclass(frozen=True)
class ObservationSpec:
    """What an environment shows at each step: an array of fixed shape and dtype.

    Pixels stay `uint8` or `bool`, as they are stored; everything else is computed with as floating-point numbers. Of
    several things that an environment shows, the array is a vector, in which each of the `entries` has its stretch.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]  # of the environment's arrays
    num_states: int | None = None  # of a finite set, whose states are one-hot vectors; None for any other observation
    entries: tuple[Entry, ...] = ()  # none for a single array or the states of a finite set
    stack: int = 1  # consecutive observations that it holds, along the first axis if there are several

    @property
    def newest(self) -> tuple[int, ...]:
        """The shape of a single one of the stacked observations."""
        return self.shape[1:] if self.stack > 1 else self.shape

    @property
    def is_image(self) -> bool:
        """Whether it consists of pixels."""
        return not self.entries and shows_image(self.newest, self.dtype)

    @property
    def parts(self) -> tuple[Entry, ...]:
        """The entries, or the whole observation as the only one."""
        return self.entries or (Entry("", self.shape, 0, self.dtype),)

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def stored(self) -> np.dtype[Any]:
        """The dtype in which policies read it and rollouts store it."""
        return self.dtype if self.dtype in (np.uint8, np.bool_) else np.dtype(np.float32)

    @staticmethod
    def vectors(observation: Observations) -> Tensor:
        """Observations (B, O) as rows of floating-point numbers (B, `size`): themselves where they are that already."""
        flat = read(observation).flatten(1)
        return flat if flat.is_floating_point() else flat.float()

    def planes(self, observation: Tensor) -> Tensor:
        """Images (B, O) as (B, C, H, W): the channels are the stacked frames, the oldest first, and their colours.

        Of the three axes of an image with colours, the shortest has them; the last one in a tie.
        """
        frames = observation if self.stack > 1 else observation[:, None]
        if len(self.newest) == 2:
            return frames
        height, width, last = self.newest
        colours = frames if height < min(width, last) else frames.movedim(-1, -3)
        return colours.flatten(1, 2)


@dataclass(frozen=True)
class Tensors:
    """A record of tensors and of other such records."""

    def to(self, device: torch.device) -> Self:
        """Return a copy on another device."""
        there = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor | Tensors)}
        return replace(self, **there)


@dataclass(frozen=True)
class Frames(Tensors):
    """Stacks of consecutive observations that share their frames, of which each is stored once.

    It is used as the tensor (..., K, *F) of its stacks would be, as far as samples and batches need that.
    """

    frame: Tensor  # (M, *F)
    index: Tensor  # (..., K) int64, the frames of each stack, the oldest first

    def __len__(self) -> int:
        return len(self.index)

    @property
    def nbytes(self) -> int:
        return self.frame.nbytes + self.index.nbytes

    def __getitem__(self, rows: Any) -> Frames:
        """Select stacks by their places in front of K; no frame is copied."""
        return replace(self, index=self.index[rows])

    def flatten(self, start: int, end: int) -> Frames:
        """Join the axes from `start` to `end`, which are in front of K."""
        return replace(self, index=self.index.flatten(start, end))

    def split(self, size: int) -> list[Frames]:
        """Split the first axis into pieces of at most `size` rows."""
        return [replace(self, index=piece) for piece in self.index.split(size)]

    def read(self) -> Tensor:
        """Make the stacks (..., K, *F)."""
        chosen = self.frame.index_select(0, self.index.flatten())  # far faster than indexing
        return chosen.view(*self.index.shape, *self.frame.shape[1:])


Observations = Tensor | Frames
"""Observations (..., O), as they are stored."""


def read(observation: Observations) -> Tensor:
    """Return observations (..., O) as one tensor."""
    return observation.read() if isinstance(observation, Frames) else observation


@dataclass(frozen=True)
class Visited:
    """M states that the critic learns from."""

    observation: Observations  # (M, O)
    value: Tensor  # (M,), V(s) by the critic
    return_: Tensor  # (M,), the estimated return: the critic's target


@dataclass(frozen=True)
class Estimates:
    """What K actions in each of S states are worth."""

    observation: Observations  # (S, O)
    action: Tensor  # (S, K, A)
    advantage: Tensor  # (S, K)
    return_: Tensor  # (S,), of the old policy from this state
    weight: Tensor  # (S,), of the state, on any scale
    log_weight: Tensor  # (S, K), log pi_old(a|s) - log q(a|s): the actions were drawn from q


class Sample(ABC):
    """What a sampler collects."""

    @abstractmethod
    def to(self, device: torch.device) -> Self:
        """Return a copy on another device."""

    def judge(self, improved: Any) -> dict[str, float | None]:
        """Return metrics of the policy that an update made, if the sampler knows them exactly."""
        return {}

    @abstractmethod
    def estimate(
        self, predict: Predict, advantage: Advantage, gamma: float, discount: float
    ) -> tuple[Estimates, Visited]:
        """Estimate what the sampled actions are worth.

        The critic's `predict` is the baseline, and gives the value of whatever was cut off. A state at time t of its
        episode has weight `discount`^t.
        """


@dataclass(frozen=True)
class Rollout(Tensors, Sample):
    """T consecutive steps of N environments under one policy; episodes may begin and end anywhere inside.

    `observation` is what the policy saw at time t; `reward`, `terminated` and `truncated` followed from the action at
    time t. A step is never both terminated and truncated: a true end takes precedence over a time limit.
    """

    observation: Observations  # (T, N, O)
    action: Tensor  # (T, N, A), before clipping to the bounds
    reward: Tensor  # (T, N)
    terminated: Tensor  # (T, N) bool, where the successor has value 0
    truncated: Tensor  # (T, N) bool, where the episode was cut off, and the successor still has value
    time: Tensor  # (T, N) int64, steps since the episode began
    truncated_observation: Tensor  # (M, O), the true successor of each truncated step, in row-major order
    last_observation: Tensor  # (N, O), the successor of time T - 1 where the episode continues

    def values(self, predict: Predict) -> tuple[Tensor, Tensor]:
        """Return V(s_t) and V of the true successor, both (T, N)."""
        value = predict(self.observation.flatten(0, 1)).view_as(self.reward)
        next_value = torch.cat([value[1:], predict(self.last_observation)[None]])
        next_value[self.truncated] = predict(self.truncated_observation)
        return value, next_value

    def advantages(self, predict: Predict, advantage: Advantage, gamma: float) -> tuple[Tensor, Visited]:
        """Return the advantages (T, N), and every step as a visited state."""
        value, next_value = self.values(predict)
        found = advantage(self.reward, value, next_value, self.terminated, self.truncated, gamma)
        return found, Visited(self.observation.flatten(0, 1), value.flatten(), (found + value).flatten())

    def estimate(
        self, predict: Predict, advantage: Advantage, gamma: float, discount: float
    ) -> tuple[Estimates, Visited]:
        found, visited = self.advantages(predict, advantage, gamma)
        estimates = Estimates(
            observation=visited.observation,
            action=self.action.flatten(0, 1)[:, None],
            advantage=found.flatten()[:, None],
            return_=visited.return_,
            weight=discount ** self.time.flatten().to(found.dtype),
            log_weight=torch.zeros_like(found).flatten()[:, None],
        )
        return estimates, visited


@dataclass(frozen=True)
class States(Tensors):
    """M states of one shard, and what the old policy does in them."""

    observation: Observations  # (M, O)
    action: Tensor  # (M, K, A), that were tried
    old_parameters: Tensor  # (M, P), of the old policy's distributions

    def select(self, rows: Tensor | slice) -> States:
        """Return the given states, (N,) int64, in that order, or a slice without copying."""
        return States(**{name: value[rows] for name, value in vars(self).items()})


@dataclass(frozen=True)
class Batch:
    """S states with K actions each: numbers of all shards in their order, and the states of the shards of this process.

    Each shard has equally many states.
    """

    states: Sequence[States]
    advantage: Tensor  # (S, K)
    return_: Tensor  # (S,)
    weight: Tensor  # (S,), of the state, mean one
    old_entropy: Tensor  # (S,), of the old policy, in nats
    old_log_prob: Tensor  # (S, K), log pi_old(a|s)
    log_q: Tensor  # (S, K), log q(a|s) of the proposal that drew the action; along a single path, q = pi_old

    def __len__(self) -> int:
        return len(self.advantage)

    @property
    def rows(self) -> int:
        """M, how many states each shard has."""
        return len(self.states[0].action)

    def select(self, rows: Tensor | slice) -> Batch:
        """Return the same states of each shard: (N,) int64, in that order, or a slice."""
        shards = len(self) // self.rows

        def choose(column: Tensor) -> Tensor:
            return column[rows] if shards == 1 else column.unflatten(0, (shards, -1))[:, rows].flatten(0, 1)

        chosen = {name: choose(value) for name, value in vars(self).items() if name != "states"}
        return Batch([states.select(rows) for states in self.states], **chosen)
