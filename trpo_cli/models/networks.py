"""The networks of policies and critics. Their passes are written out in `passes.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trpo_cli.data import Observations, ObservationSpec
from trpo_cli.errors import ConfigError
from trpo_cli.models.convolutions import Convolution, Convolutions, ImagePasses, InPieces
from trpo_cli.models.encoders import Encoder, Map, MLPEncoder
from trpo_cli.models.layers import Layers, orthogonal, write_out, write_out_each
from trpo_cli.models.linearisation import Linearisation, join, size
from trpo_cli.models.passes import Activation, Array, Passes
from trpo_cli.threads import in_order

PIECE = 4096  # rows that a pass goes over at once


class MLP(nn.Module):
    """Linear layers with an activation after each but the last, `head`; `trunk` is all before it."""

    def __init__(
        self, inputs: int, hidden_sizes: Sequence[int], outputs: int, activation: Activation, output_gain: float
    ) -> None:
        super().__init__()
        self.trunk = Layers(inputs, hidden_sizes, activation)
        self.feature_size = self.trunk.size
        self.head = orthogonal(nn.Linear(self.feature_size, outputs), output_gain)
        self._activation: Activation = activation
        self._linear = [*self.trunk.linear, self.head]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))  # type: ignore[no-any-return]

    def features(self, x: Tensor) -> Tensor:
        """What the head reads (B, `feature_size`)."""
        return self.trunk(x)  # type: ignore[no-any-return]

    def infer(self, x: Tensor) -> Tensor:
        """`forward` (B, P) without a graph."""
        passes = self.passes(len(x))
        return torch.as_tensor(passes(passes.alike(x)))

    def infer_each(self, thetas: Tensor, x: Tensor) -> Tensor:
        """`infer` (B, P) on a CPU, each row of `x` (B, in) with the parameters in its row of `thetas` (B, D)."""
        passes = write_out_each(self._linear, len(self._linear) - 1, self._activation, thetas)
        return torch.from_numpy(passes(x.numpy()[:, None])[:, 0])

    def linearise(self, x: Tensor) -> Linearisation:
        """Outputs and products. A large batch goes in pieces that fit into the cache from one layer to the next."""
        passes = self.passes(len(x))
        if len(x) <= PIECE:
            return passes.linearise(x)
        return join([passes.linearise(piece) for piece in x.split(PIECE)])

    def linearising(self, rows: int) -> Callable[[Tensor], Linearisation]:
        """`linearise` for batches of `rows` rows, while the parameters change in place."""
        return self.passes(rows).linearise

    def passes(self, rows: int) -> Passes | EncodedPasses:
        """The network as it is, prepared for inputs of `rows` rows."""
        return write_out(self._linear, len(self._linear) - 1, self._activation, rows)


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

    def features(self, x: Tensor) -> Tensor:
        encoded = [encoder(x[:, place]) for encoder, place in zip(self._encoders, self._places, strict=True)]
        return super().features(torch.cat(encoded, dim=-1))

    def infer_each(self, thetas: Tensor, x: Tensor) -> Tensor:
        sizes = [size(encoder) for encoder in self._encoders]
        own, *others = thetas.split([thetas.shape[1] - sum(sizes), *sizes], dim=1)
        parts = zip(self._encoders, self._places, others, strict=True)
        encoded = [encoder.infer_each(theta, x[:, place]) for encoder, place, theta in parts]
        return super().infer_each(own, torch.cat(encoded, dim=-1))

    def passes(self, rows: int) -> EncodedPasses:
        maps = [encoder.passes(rows) for encoder in self._encoders]
        sizes = [size(encoder) for encoder in self._encoders]
        rest = write_out(self._linear, len(self._linear) - 1, self._activation, rows)
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


class CNN(nn.Module):
    """Convolutions, and an MLP that reads their features. It reads observations as they are stored."""

    def __init__(
        self,
        observation: ObservationSpec,
        convolutions: Sequence[Convolution],
        hidden_sizes: Sequence[int],
        outputs: int,
        activation: Activation,
        output_gain: float,
        role: str,
    ) -> None:
        """Raises `ConfigError`, which names the group `role`, if the images are too small for the convolutions."""
        super().__init__()
        self.convolutions = Convolutions(observation, convolutions, activation, role)
        self.rest = MLP(self.convolutions.size, hidden_sizes, outputs, activation, output_gain)
        self.feature_size = self.rest.feature_size
        self._activation: Activation = activation

    @property
    def head(self) -> nn.Linear:
        return self.rest.head

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.convolutions(x))  # type: ignore[no-any-return]

    def features(self, x: Tensor) -> Tensor:
        """What the head reads (B, `feature_size`)."""
        return self.rest.features(self.convolutions(x))

    def infer(self, x: Observations) -> Tensor:
        """`forward` (B, P) without a graph."""
        return self.passes()(x)

    def infer_each(self, thetas: Tensor, x: Tensor) -> Tensor:
        """`infer` (B, P) on a CPU, each of the images (B, O) with the parameters in its row of `thetas` (B, D)."""
        each = in_order(lambda one: self.passes().with_parameters(one[0])(one[1][None]), zip(thetas, x, strict=True))
        return torch.cat([*each])

    def linearise(self, x: Observations) -> Linearisation:
        """Outputs and products, piece by piece."""
        return self.passes().linearise(x)

    def linearising(self, rows: int) -> Callable[[Observations], Linearisation]:
        """`linearise`, while the parameters change in place."""
        return self.linearise

    def outputs(self, theta: Tensor, x: Observations, known: Tensor | None = None) -> Tensor:
        """`forward` (B, P) with the parameters `theta` (D,), with a graph that can be differentiated once."""
        return InPieces.apply(theta, self.passes(), x, known)  # type: ignore[no-any-return, no-untyped-call]

    def passes(self, heads: Sequence[nn.Linear] | None = None) -> ImagePasses:
        """The network as it is now, until its parameters change; its own head gives way to other `heads`."""
        heads = heads or [self.head]
        return ImagePasses.write_out(self.convolutions, self.rest.trunk.linear, heads, self._activation)


Network = MLP | CNN


def make_network(
    observation: ObservationSpec,
    outputs: int,
    *,
    hidden_sizes: Sequence[int],
    encoder_sizes: Sequence[int] | None,
    convolutions: Sequence[Convolution] | None,
    activation: Activation,
    output_gain: float,
    role: str,
) -> tuple[Network, Callable[[Observations], Any]]:
    """A network for the group `role`, and what makes its inputs of observations.

    With `convolutions` it reads images as they are stored; otherwise it reads all numbers of an observation, together
    or through an encoder for each entry. Raises `ConfigError` if the convolutions do not fit the observations.
    """
    if convolutions:
        refuse_vectors(observation, role)
        return CNN(observation, convolutions, hidden_sizes, outputs, activation, output_gain, role), as_stored
    if not encoder_sizes:
        return MLP(observation.size, hidden_sizes, outputs, activation, output_gain), observation.vectors
    encoders = [MLPEncoder(entry.size, encoder_sizes, activation) for entry in observation.parts]
    places = [entry.place for entry in observation.parts]
    return MultiInput(encoders, places, hidden_sizes, outputs, activation, output_gain), observation.vectors


def as_stored(observation: Observations) -> Observations:
    """What a network reads that takes observations as they are."""
    return observation


def refuse_vectors(observation: ObservationSpec, role: str) -> None:
    """Raise `ConfigError` unless the observations are images."""
    if not observation.is_image:
        option = "multi_input" if observation.entries else "mlp"
        raise ConfigError(
            f"{role}: convolutions read images, which are arrays of uint8 or bool with two axes, or three with "
            f"colours; an observation here has the shape {observation.newest} and is {observation.dtype}\n"
            f"{role}={option} reads it"
        )
