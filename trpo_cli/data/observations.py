"""What environments show: what it looks like, and how observations of many steps are stored."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor


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


Steps = Tensor | Frames
"""Observations (..., O), as they are stored."""


@dataclass(frozen=True)
class Sequences(Tensors):
    """G sequences of W consecutive steps each, in one environment each, for policies and critics that remember.

    The last `length` steps of each count, and are `length` neighbouring rows of a batch. The steps before them only
    lead there. Selecting and counting is by whole sequences.
    """

    seen: Steps  # (G, W, O)
    memory: Tensor  # (G, M), of the policy and behind it of the critic, at the beginning
    first: Tensor  # (G,) int64, the step that begins with this memory; those before it are padding
    begins: Tensor  # (G, W) bool, where an episode begins, with an empty memory
    length: int

    def __len__(self) -> int:
        return len(self.memory)

    def __getitem__(self, chosen: Tensor | slice) -> Sequences:
        """Select sequences, (N,) int64, in that order, or a slice."""
        kept = (self.seen[chosen], self.memory[chosen], self.first[chosen], self.begins[chosen])
        return Sequences(*kept, self.length)

    @property
    def steps(self) -> Steps:
        """The observations of the steps that count (G * `length`, O)."""
        return self.seen[:, -self.length :].flatten(0, 1)

    @classmethod
    def of_single_steps(cls, observation: Steps, memory: Tensor) -> Sequences:
        """Sequences of one step each, at observations (G, O) with the memory (G, M)."""
        count = len(memory)
        nothing = torch.zeros(count, dtype=torch.int64, device=memory.device)
        return cls(observation[:, None], memory, nothing, torch.zeros_like(nothing, dtype=torch.bool)[:, None], 1)


Observations = Steps | Sequences
"""Observations (B, O) of a batch, one step in each row."""


def steps(observation: Observations) -> Steps:
    """Return observations (B, O) without what came before them."""
    return observation.steps if isinstance(observation, Sequences) else observation


def length_of(observation: Observations) -> int:
    """Return how many neighbouring rows are selected together: those of a sequence, or a single one."""
    return observation.length if isinstance(observation, Sequences) else 1


def read(observation: Observations) -> Tensor:
    """Return observations (B, O) as one tensor."""
    stored = steps(observation)
    return stored.read() if isinstance(stored, Frames) else stored
