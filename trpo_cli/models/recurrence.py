"""The passes of networks that remember written out: encoder, memory cell through time, and the layers behind it.

Sizes: B steps that count, of G sequences with W steps each; P outputs; D parameters, of the encoder, of what the cell
reads and recalls, and of the layers and heads in turn.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trpo_cli.data import ObservationSpec, Sequences, Steps
from trpo_cli.models.cells import Array, Beginnings, CellPasses
from trpo_cli.models.convolutions import ImagePasses
from trpo_cli.models.linearisation import Linearisation
from trpo_cli.models.passes import Curve, Passes


@dataclass(frozen=True)
class RecurrentPasses:
    """A network as it is, on a CPU. For four rows and more, acting gives the bits that a whole batch gives later."""

    encoder: Passes | ImagePasses | None  # before one more activation
    curve: Curve
    reader: Passes  # R x + b of the cell
    cell: CellPasses
    rest: Passes  # of several heads, the last layer has all outputs side by side
    heads: Sequence[tuple[int, int]]  # the weights and biases of each
    place: slice  # of its numbers in the memory of sequences
    sizes: list[int]  # of the parameters of the encoder, the reader, the weight and bias of U, and the rest

    def __call__(self, observation: Sequences) -> Tensor:
        """The outputs (B, P)."""
        read = self._through_time(self.read(observation.seen.flatten(0, 1)), observation)
        return self.rest(_rows(self.cell.follow(read, self._beginnings(observation)), observation.length))  # type: ignore[no-any-return]

    def read(self, observation: Steps) -> Tensor:
        """What the cell reads (B, g H) at observations (B, O)."""
        if isinstance(self.encoder, ImagePasses):
            features = self.encoder(observation)
        else:
            vectors = ObservationSpec.vectors(observation)
            features = vectors if self.encoder is None else self.encoder(vectors)
        return self.reader(features if self.encoder is None else self.curve.value(features))  # type: ignore[no-any-return]

    def follow(self, observation: Array, memory: Array) -> Array:
        """The memory (N, M) after a step in which it saw observations (N, O)."""
        read = self.read(torch.from_numpy(observation)).numpy()
        after, _ = self.cell.step(read.reshape(len(read), *self.cell.cell.shape), memory)
        return after

    def output(self, memory: Array) -> Array:
        """The outputs (N, P) with this memory (N, M)."""
        shown = np.ascontiguousarray(memory[:, : self.cell.cell.size])
        return self.rest(torch.from_numpy(shown)).numpy()  # type: ignore[no-any-return]

    def linearise(self, observation: Sequences) -> Linearisation:
        """Outputs and products, by the chain rule."""
        encoded = self._encode(observation.seen.flatten(0, 1))
        reader = self.reader.trace(encoded.output)
        cell = self.cell.trace(self._through_time(reader.output, observation), self._beginnings(observation))
        rest, width = self.rest.trace(_rows(cell.shown, observation.length)), observation.begins.shape[1]

        def jvp(v: Tensor) -> Tensor:
            of_encoder, of_reader, weight, bias, of_rest = v.split(self.sizes)
            moved = reader.jvp(of_reader, encoded.jvp(of_encoder) if len(of_encoder) else None)
            shown = cell.jvp(self._through_time(moved, observation), weight.view_as(cell.weight), bias)
            return rest.jvp(of_rest[self._joined], _rows(shown, observation.length))

        def vjp(u: Tensor) -> Tensor:
            of_rest, back = rest.vjp(u, by_inputs=True)
            by_read, weight, bias = cell.vjp(_steps(back, observation.length, width))
            of_reader, back = reader.vjp(_by_sequence(by_read), by_inputs=self.encoder is not None)
            own = (of_reader, weight.flatten(), bias, of_rest[self._joined.argsort()])
            return torch.cat([encoded.vjp(back), *own])

        return Linearisation(rest.output, jvp, vjp)

    def _encode(self, observation: Steps) -> Linearisation:
        """What the cell is shown (G * W, in)."""
        if self.encoder is None:
            return Linearisation(ObservationSpec.vectors(observation), lambda v: v, lambda u: u.new_empty(0))
        if isinstance(self.encoder, ImagePasses):
            encoder = self.encoder.linearise(observation)
        else:
            encoder = self.encoder.linearise(ObservationSpec.vectors(observation))
        features = self.curve.value(encoder.output.clone())
        slope = self.curve.slope(encoder.output, features)
        return Linearisation(features, lambda v: encoder.jvp(v) * slope, lambda u: encoder.vjp(u * slope))

    def _beginnings(self, observation: Sequences) -> Beginnings:
        memory = observation.memory[:, self.place].to(self.reader.weights[0].dtype).numpy()
        return Beginnings(memory, observation.first.numpy(), observation.begins.T.numpy())

    def _through_time(self, read: Tensor, observation: Sequences) -> Array:
        """What the cell reads (G * W, g H), as (W, G, g, H)."""
        by_step = read.unflatten(0, observation.begins.shape).transpose(0, 1).contiguous()
        return by_step.numpy().reshape(*by_step.shape[:2], *self.cell.cell.shape)  # type: ignore[no-any-return]

    @functools.cached_property
    def _joined(self) -> Tensor:
        """Where the layers of `rest` find their parameters in a vector that has them head by head."""
        sizes = [size for head in self.heads for size in head]
        before, *parts = torch.arange(self.sizes[-1]).split([self.sizes[-1] - sum(sizes), *sizes])
        return torch.cat([before, *parts[::2], *parts[1::2]])


def _rows(shown: Array, length: int) -> Tensor:
    """Of numbers (W, G, H), those of the last `length` steps, as rows (G * length, H)."""
    return torch.from_numpy(shown[-length:]).transpose(0, 1).flatten(0, 1)


def _steps(rows: Tensor, length: int, width: int) -> Array:
    """The inverse of `_rows`, with zeros for the steps before."""
    counted = rows.unflatten(0, (-1, length)).transpose(0, 1)
    steps = rows.new_zeros(width, *counted.shape[1:])
    steps[-length:] = counted
    return steps.numpy()


def _by_sequence(read: Array) -> Tensor:
    """Numbers (W, G, g, H) as rows (G * W, g H)."""
    return torch.from_numpy(read).flatten(2).transpose(0, 1).flatten(0, 1)
