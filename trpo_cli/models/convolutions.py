"""Convolutional layers, and the passes of networks that begin with them written out, piece by piece of a batch.

A piece has a fixed number of rows, so that its activations stay in the cache, and one thread works on it. Sums over a
batch are taken in the order of the pieces. Numbers therefore do not depend on how many threads there are.

Sizes: B images, C channels, P outputs; D parameters, of the convolutions, the hidden layers and the heads in turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

from trpo_cli.data import ObservationSpec, Steps, read
from trpo_cli.errors import ConfigError
from trpo_cli.models.layers import ACTIVATIONS, orthogonal
from trpo_cli.models.linearisation import Linearisation
from trpo_cli.models.passes import TORCH_CURVES, Activation
from trpo_cli.ranges import Count
from trpo_cli.threads import in_order

PIECE = 64  # images that one thread works on at once
KEPT = 2**28  # bytes of a batch and the activations kept from one product to the next; other activations are made again
Convolution = list[Count]
"""Channels, side of the square kernel in pixels, and stride."""
aten = torch.ops.aten

BACK: dict[Activation, Callable[[Tensor, Tensor], Tensor]] = {
    "tanh": aten.tanh_backward,
    "relu": lambda g, h: aten.threshold_backward(g, h, 0),
    "elu": lambda g, h: aten.elu_backward(g, 1, 1, 1, True, h),
    "silu": aten.silu_backward,
}
"""g and the outputs h of an activation, of `silu` its inputs -> g dh/dz."""


class Convolutions(nn.Sequential):
    """Convolutions without padding, with an activation after each: images (B, O) -> features (B, `size`).

    Pixels of `uint8` become numbers from 0 to 1.
    """

    def __init__(
        self, observation: ObservationSpec, layers: Sequence[Convolution], activation: Activation, role: str
    ) -> None:
        """Raises `ConfigError`, which names the group `role`, for a layer that makes no sense or does not fit."""
        example = observation.planes(torch.empty((1, *observation.shape), device="meta"))
        channels, *sides = example.shape[1:]
        modules: list[nn.Module] = []
        for number, layer in enumerate(layers):
            where = f"{role}.convolutions[{number}]"
            if len(layer) != 3:
                raise ConfigError(f"{where}: got {layer}; it should be [CHANNELS, KERNEL, STRIDE]")
            out, kernel, stride = layer
            if kernel > min(sides):
                raise ConfigError(
                    f"{where}: a kernel of {kernel} x {kernel} pixels does not fit into the "
                    f"{' x '.join(map(str, sides))} this layer gets; smaller strides and kernels leave more, "
                    f"as those of {role}=cnn_small do"
                )
            modules += [orthogonal(nn.Conv2d(channels, out, kernel, stride), math.sqrt(2)), ACTIVATIONS[activation]()]
            channels, sides = out, [(side - kernel) // stride + 1 for side in sides]
        super().__init__(*modules)
        self.size = channels * math.prod(sides)
        self._planes = observation.planes

    @property
    def layers(self) -> list[nn.Conv2d]:
        return [layer for layer in self if isinstance(layer, nn.Conv2d)]

    def forward(self, observation: Tensor) -> Tensor:
        planes = self.planes(observation).to(self.layers[0].weight.dtype)
        x = planes / 255 if observation.dtype == torch.uint8 else planes
        for module in self:
            x = module(x)
        return x.flatten(1)

    def planes(self, observation: Tensor) -> Tensor:
        """Images (B, O) as (B, C, H, W), with the channels of a pixel side by side in memory."""
        return self._planes(observation).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class ImagePasses:
    """A network as it is now: convolutions, then linear layers; an activation follows all but the last layer.

    Of several `heads` the last layer has all outputs, side by side. Weights are copied, as convolutions read them
    fastest, so this is good until the parameters change.
    """

    planes: Callable[[Tensor], Tensor]
    kernels: list[Tensor]  # (out, in, k, k)
    strides: list[int]
    weights: list[Tensor]  # (out, in), of the linear layers
    biases: list[Tensor]  # of all layers
    heads: list[int]  # how many outputs each head has
    activation: Activation

    @classmethod
    def write_out(
        cls, convolutions: Convolutions, hidden: Sequence[nn.Linear], heads: Sequence[nn.Linear], activation: Activation
    ) -> ImagePasses:
        layers = convolutions.layers
        biases = [*(layer.bias for layer in layers if layer.bias is not None), *(layer.bias for layer in hidden)]
        return cls(
            planes=convolutions.planes,
            kernels=[layer.weight.detach().contiguous(memory_format=torch.channels_last) for layer in layers],
            strides=[layer.stride[0] for layer in layers],
            weights=[*(layer.weight.detach() for layer in hidden), _join([head.weight.detach() for head in heads])],
            biases=[*(bias.detach() for bias in biases), _join([head.bias.detach() for head in heads])],
            heads=[head.out_features for head in heads],
            activation=activation,
        )

    def with_parameters(self, theta: Tensor) -> ImagePasses:
        """The same network with the parameters `theta` (D,)."""
        layers = self.arrange(theta)
        weights, biases = [weight for weight, _ in layers], [bias for _, bias in layers]
        return replace(self, kernels=weights[: len(self.kernels)], weights=weights[len(self.kernels) :], biases=biases)

    def __call__(self, observation: Steps) -> Tensor:
        """The outputs (B, P)."""
        return torch.cat([*in_order(lambda piece: self.trace(piece).output, observation.split(PIECE))])

    def linearise(self, observation: Steps) -> Linearisation:
        """Outputs and products. Activations are kept as far as they are few, and else computed for each product."""
        pieces = observation.split(PIECE)
        kept: list[ImageTrace | None] = []
        outputs, left = [], KEPT - observation.nbytes
        for trace in in_order(self.trace, pieces):
            left -= trace.bytes
            kept.append(trace if left >= 0 else None)
            outputs.append(trace.output)
        both = list(zip(pieces, kept, strict=True))

        def jvp(v: Tensor) -> Tensor:
            moves = self.arrange(v)
            return torch.cat([*in_order(lambda one: (one[1] or self.trace(one[0])).jvp(moves), both)])

        def vjp(u: Tensor) -> Tensor:
            rows = [len(output) for output in outputs]
            jobs = zip(both, u.split(rows), strict=True)
            return _sum(in_order(lambda job: (job[0][1] or self.trace(job[0][0])).vjp(job[1]), jobs))

        return Linearisation(torch.cat(outputs), jvp, vjp)

    def pull_back(self, observation: Steps, u: Tensor) -> Tensor:
        """The gradient (D,) of u . outputs, in a single pass over the pieces."""
        jobs = zip(observation.split(PIECE), u.split(PIECE), strict=True)
        return _sum(in_order(lambda job: self.trace(job[0]).vjp(job[1]), jobs))

    def trace(self, observation: Steps) -> ImageTrace:
        """Go forward over one piece, and keep what the products need."""
        planes = self.planes(read(observation))
        trace, x = ImageTrace(self, planes), self.scale(planes)
        for i, bias in enumerate(self.biases):
            if i < len(self.kernels):
                z = conv2d(x, self.kernels[i], bias, self.strides[i])
            else:
                z = _linear(x.flatten(1) if i == len(self.kernels) else x, self.weights[i - len(self.kernels)], bias)
            last = i == len(self.biases) - 1
            x = z if last else TORCH_CURVES[self.activation].value(z)
            trace.inputs.append(x)
            trace.bends.append(z if self.activation == "silu" else x)
        return trace

    def scale(self, planes: Tensor) -> Tensor:
        """Planes as floating-point numbers."""
        dtype = self.biases[0].dtype
        return planes.to(dtype).mul_(1 / 255) if planes.dtype == torch.uint8 else planes.to(dtype)

    def arrange(self, vector: Tensor) -> list[tuple[Tensor, Tensor]]:
        """A vector (D,) as weights and biases of each layer, the heads side by side."""
        layers, width = [*self.kernels, *self.weights[:-1]], self.weights[-1].shape[1]
        sizes = [(w.numel(), len(w)) for w in layers] + [(rows * width, rows) for rows in self.heads]
        parts = vector.split([size for pair in sizes for size in pair])
        pairs = list(zip(parts[::2], parts[1::2], strict=True))
        before, heads = pairs[: len(layers)], pairs[len(layers) :]
        last = _join([w.view(-1, width) for w, _ in heads]), _join([b for _, b in heads])
        arranged = [(part.view(layer.shape), bias) for layer, (part, bias) in zip(layers, before, strict=True)]
        for i in range(len(self.kernels)):
            arranged[i] = arranged[i][0].contiguous(memory_format=torch.channels_last), arranged[i][1]
        return [*arranged, last]

    def flatten(self, gradients: list[tuple[Tensor, Tensor]]) -> Tensor:
        """The inverse of `arrange`."""
        *layers, (weight, bias) = gradients
        heads = zip(weight.split(self.heads), bias.split(self.heads), strict=True)
        return torch.cat([part.flatten() for pair in (*layers, *heads) for part in pair])


@dataclass(frozen=True)
class ImageTrace:
    """A pass forward over one piece, and its products."""

    passes: ImagePasses
    planes: Tensor  # (B, C, H, W), as they are stored
    inputs: list[Tensor] = field(default_factory=list)  # of each layer but the first; the last are the outputs
    bends: list[Tensor] = field(default_factory=list)  # by which the slope of each activation is known

    @property
    def output(self) -> Tensor:
        """(B, P)."""
        return self.inputs[-1]

    @property
    def bytes(self) -> int:
        """What keeping it takes."""
        bends = self.bends if self.passes.activation == "silu" else []
        return sum(tensor.nbytes for tensor in (self.planes, *self.inputs, *bends))

    def jvp(self, moves: list[tuple[Tensor, Tensor]]) -> Tensor:
        """How the outputs (B, P) move if the layers do."""
        passes, last = self.passes, len(moves) - 1
        moved: Tensor | None = None
        for i, (weight, bias) in enumerate(moves):
            z = self._forward(i, self._input(i), weight, bias)
            if moved is not None:
                z += self._forward(i, moved.flatten(1) if self._is_first_linear(i) else moved, None, None)
            moved = z if i == last else BACK[passes.activation](z, self.bends[i])
        assert moved is not None
        return moved

    def vjp(self, u: Tensor) -> Tensor:
        """The gradient (D,) of u . outputs."""
        passes, back = self.passes, u
        convolutions, gradients = len(passes.kernels), []
        for i in reversed(range(len(passes.biases))):
            if i < len(passes.biases) - 1:
                back = BACK[passes.activation](back, self.bends[i])
            if i >= convolutions:
                gradients.append((_linear(back.T, self._input(i).T), back.sum(0)))
                back = _linear(back, passes.weights[i - convolutions].T)
                if i == convolutions:
                    back = back.view(self.inputs[i - 1].shape).contiguous(memory_format=torch.channels_last)
                continue
            stride, wanted = [passes.strides[i]] * 2, [i > 0, True, True]
            size = [len(passes.biases[i])]
            back, of_kernel, of_bias = aten.convolution_backward(
                back, self._input(i), passes.kernels[i], size, stride, [0, 0], [1, 1], False, [0, 0], 1, wanted
            )
            gradients.append((of_kernel, of_bias))
        return passes.flatten(gradients[::-1])

    def _input(self, i: int) -> Tensor:
        if i == 0:
            return self.passes.scale(self.planes)
        return self.inputs[i - 1].flatten(1) if self._is_first_linear(i) else self.inputs[i - 1]

    def _is_first_linear(self, i: int) -> bool:
        return i == len(self.passes.kernels)

    def _forward(self, i: int, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """Layer i with other weights, or its own without the bias."""
        passes, linear_layer = self.passes, i - len(self.passes.kernels)
        if linear_layer >= 0:
            return _linear(x, passes.weights[linear_layer] if weight is None else weight, bias)
        return conv2d(x, passes.kernels[i] if weight is None else weight, bias, passes.strides[i])


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias; oneDNN, which only its own operator reaches, takes half as long as the BLAS of torch."""
    fast = x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available()
    if fast:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # type: ignore[no-any-return]
    return linear(x, weight, bias)


def _join(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat([*parts])


def _sum(gradients: Iterator[Tensor]) -> Tensor:
    total = next(gradients)
    for gradient in gradients:
        total += gradient
    return total
