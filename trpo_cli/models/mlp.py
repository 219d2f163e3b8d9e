"""Networks that read vectors, with passes written out in `passes.py`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trpo_cli.data import Observations, ObservationSpec, read
from trpo_cli.models.encoders import Encoder, Map
from trpo_cli.models.layers import Layers, orthogonal, write_out, write_out_each
from trpo_cli.models.linearisation import Linearisation, join, outputs, size
from trpo_cli.models.passes import Activation, Array, Passes

PIECE = 4096  # rows that a pass goes over at once
Values = NDArray[Any]
Act = Callable[[Values, Values], tuple[Values, Values]]
"""Observations (N, O) and memory (N, M) -> outputs (N, P) and the memory after them."""
vectors = ObservationSpec.vectors


class MLP(nn.Module):
    """Linear layers with an activation after each but the last, `head`; `trunk` is all before it.

    It reads observations (B, O) as rows of numbers.
    """

    works_in_pieces: ClassVar[bool] = False  # as of a policy
    memory_size: ClassVar[int] = 0  # as of a policy

    def __init__(
        self, inputs: int, hidden_sizes: Sequence[int], outputs: int, activation: Activation, output_gain: float
    ) -> None:
        super().__init__()
        self.trunk = Layers(inputs, hidden_sizes, activation)
        self.feature_size = self.trunk.size
        self.head = orthogonal(nn.Linear(self.feature_size, outputs), output_gain)
        self._activation: Activation = activation
        self.linear = [*self.trunk.linear, self.head]

    def forward(self, observation: Tensor) -> Tensor:
        return self.head(self.features(observation))  # type: ignore[no-any-return]

    def features(self, observation: Tensor) -> Tensor:
        """What the head reads (B, `feature_size`)."""
        return self.trunk(vectors(observation))  # type: ignore[no-any-return]

    def infer(self, observation: Observations) -> Tensor:
        """`forward` (B, P) without a graph."""
        x = vectors(observation)
        passes = self.passes(len(x))
        return torch.as_tensor(passes(passes.alike(x)))

    def infer_each(self, thetas: Tensor, observation: Tensor) -> Tensor:
        """`infer` (B, P) on a CPU, each observation with the parameters in its row of `thetas` (B, D)."""
        passes = write_out_each(self.linear, len(self.linear) - 1, self._activation, thetas)
        return torch.from_numpy(passes(vectors(observation).numpy()[:, None])[:, 0])

    def infer_head(self, head: nn.Linear, observation: Observations) -> Tensor:
        """What another head (B, out) makes of the features, without a graph."""
        return head(self.features(read(observation)))  # type: ignore[no-any-return]

    def infer_with(self, head: nn.Linear, observation: Observations) -> Tensor:
        """The outputs of the network, and behind them those of another head, without a graph."""
        return torch.cat([self.infer(observation), self.infer_head(head, observation)], dim=-1)

    def acting(self) -> Act:
        """`infer` from array to array, while the parameters stay as they are; the memory is empty."""
        passes = self.passes(1)

        def act(observation: Values, memory: Values) -> tuple[Values, Values]:
            x = observation.reshape(len(observation), math.prod(observation.shape[1:]))  # torch would take far longer
            return passes(x if x.dtype.kind == "f" else x.astype(np.float32)), memory

        return act

    def linearise(self, observation: Observations) -> Linearisation:
        """Outputs and products. A large batch goes in pieces that fit into the cache from one layer to the next."""
        x = vectors(observation)
        passes = self.passes(len(x))
        if len(x) <= PIECE:
            return passes.linearise(x)
        return join([passes.linearise(piece) for piece in x.split(PIECE)])

    def linearise_with(self, head: nn.Linear, observation: Observations) -> Linearisation | None:
        """The same with another head, as `infer_with`; None if automatic differentiation is as fast."""
        return None

    def linearising(self, rows: int) -> Callable[[Observations], Linearisation]:
        """`linearise` for batches of `rows` rows, while the parameters change in place."""
        passes = self.passes(rows)
        return lambda observation: passes.linearise(vectors(observation))

    def outputs(self, theta: Tensor, observation: Observations, known: Tensor | None = None) -> Tensor:
        """`forward` (B, P) with the parameters `theta` (D,), with a graph."""
        return outputs(self, theta, read(observation))

    def passes(self, rows: int) -> Passes | EncodedPasses:
        """The network as it is, prepared for inputs of `rows` rows."""
        return write_out(self.linear, len(self.linear) - 1, self._activation, rows)


class MultiInput(MLP):
    """An MLP that reads features: each entry of the observation has an encoder of its own, and they are joined."""

    def __init__(
        self,
        encoders: Sequence[Encoder],
        places: Sequence[slice],
        hidden_sizes: Sequence[int],
        outputs: int,
        activation: Activation,
        output_gain: float,
    ) -> None:
        """Encoder i reads the columns `places[i]` of the observations."""
        super().__init__(sum(encoder.size for encoder in encoders), hidden_sizes, outputs, activation, output_gain)
        self.encoders = nn.ModuleList(encoders)
        self._encoders, self._places = list(encoders), list(places)

    def features(self, observation: Tensor) -> Tensor:
        x = vectors(observation)
        encoded = [encoder(x[:, place]) for encoder, place in zip(self._encoders, self._places, strict=True)]
        return super().features(torch.cat(encoded, dim=-1))

    def infer_each(self, thetas: Tensor, observation: Tensor) -> Tensor:
        x = vectors(observation)
        sizes = [size(encoder) for encoder in self._encoders]
        own, *others = thetas.split([thetas.shape[1] - sum(sizes), *sizes], dim=1)
        parts = zip(self._encoders, self._places, others, strict=True)
        encoded = [encoder.infer_each(theta, x[:, place]) for encoder, place, theta in parts]
        return super().infer_each(own, torch.cat(encoded, dim=-1))

    def passes(self, rows: int) -> EncodedPasses:
        maps = [encoder.passes(rows) for encoder in self._encoders]
        sizes = [size(encoder) for encoder in self._encoders]
        rest = write_out(self.linear, len(self.linear) - 1, self._activation, rows)
        return EncodedPasses(maps, self._places, sizes, rest)


@dataclass(frozen=True)
class EncodedPasses:
    """The passes of a `MultiInput`. A vector (D,) begins with the parameters of `rest`, as the module does."""

    encoders: Sequence[Map]
    places: Sequence[slice]
    sizes: Sequence[int]  # how many parameters each encoder has
    rest: Passes

    def __call__(self, x: Array) -> Array:
        encoded = [encoder(x[:, place]) for encoder, place in zip(self.encoders, self.places, strict=True)]
        return self.rest(torch.cat(encoded, 1) if isinstance(x, Tensor) else np.concatenate(encoded, 1))

    def alike(self, tensor: Tensor) -> Array:
        """The tensor in the form that a call takes, sharing its memory."""
        return self.rest.alike(tensor)

    def linearise(self, x: Tensor) -> Linearisation:
        """Outputs and products, by the chain rule."""
        encoded = [encoder.linearise(x[:, place]) for encoder, place in zip(self.encoders, self.places, strict=True)]
        trace = self.rest.trace(torch.cat([one.output for one in encoded], 1))
        widths = [one.output.shape[1] for one in encoded]

        def jvp(v: Tensor) -> Tensor:
            own, *others = v.split([len(v) - sum(self.sizes), *self.sizes])
            moved = [one.jvp(other) for one, other in zip(encoded, others, strict=True)]
            return trace.jvp(own, torch.cat(moved, 1))

        def vjp(u: Tensor) -> Tensor:
            own, back = trace.vjp(u, by_inputs=True)
            others = [one.vjp(part) for one, part in zip(encoded, back.split(widths, 1), strict=True)]
            return torch.cat([own, *others])

        return Linearisation(trace.output, jvp, vjp)
