"""Encoders: what a network makes of one entry of an observation before it reads all of them together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from trpo_cli.models.layers import Layers, write_out, write_out_each
from trpo_cli.models.linearisation import Linearisation, linearise, outputs
from trpo_cli.models.passes import Activation, Array


class Map(Protocol):
    """A function of inputs (B, in) as it is now."""

    def __call__(self, x: Array) -> Array:
        """The outputs (B, P): a tensor for a tensor, a numpy array for a numpy array."""

    def linearise(self, x: Tensor) -> Linearisation:
        """The outputs (B, P), and how they move with the parameters."""


class Encoder(nn.Module, ABC):
    """The numbers of one entry (B, n) -> features (B, `size`).

    A subclass has to define `forward` alone; the other methods can be overridden by faster ones.
    """

    size: int

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Features (B, `size`), differentiable."""

    def passes(self, rows: int) -> Map:
        """The encoder as it is, prepared for inputs of `rows` rows."""
        return Differentiated(self)

    @torch.no_grad()
    def infer_each(self, thetas: Tensor, x: Tensor) -> Tensor:
        """Features (B, `size`) on a CPU, each row of `x` with the parameters in its row of `thetas` (B, D)."""
        return torch.func.vmap(lambda theta, row: outputs(self, theta, row[None])[0])(thetas, x)


@dataclass(frozen=True)
class Differentiated:
    """A module as a `Map`, by automatic differentiation."""

    module: nn.Module

    @torch.no_grad()
    def __call__(self, x: Array) -> Array:
        features = self.module(torch.as_tensor(x))
        return features if isinstance(x, Tensor) else features.numpy()

    def linearise(self, x: Tensor) -> Linearisation:
        return linearise(self.module, x)


class MLPEncoder(Encoder):
    """Linear layers with an activation after each."""

    def __init__(self, inputs: int, widths: Sequence[int], activation: Activation) -> None:
        super().__init__()
        self.layers, self._activation = Layers(inputs, widths, activation), activation
        self.size = self.layers.size
        self._linear = self.layers.linear

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]

    def passes(self, rows: int) -> Map:
        return write_out(self._linear, len(self._linear), self._activation, rows)

    def infer_each(self, thetas: Tensor, x: Tensor) -> Tensor:
        passes = write_out_each(self._linear, len(self._linear), self._activation, thetas)
        return torch.from_numpy(passes(x.numpy()[:, None])[:, 0])
