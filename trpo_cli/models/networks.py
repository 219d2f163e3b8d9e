"""Networks, with their passes written out: forward, J v and J^T u, without a graph to build at every step."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from trpo_cli.models.linearisation import Linearisation, join

Activation = Literal["tanh", "relu", "elu", "silu"]
FEW = 1024  # rows; with fewer, numpy is faster than torch
PIECE = 4096  # rows that a pass goes over at once


class Tanh(nn.Module):
    """tanh; on a CPU computed as 2 sigmoid(2x) - 1, within 2e-7 of torch's own and six times as fast."""

    def forward(self, x: Tensor) -> Tensor:
        return (2 * x).sigmoid().mul(2).sub(1) if x.device.type == "cpu" else x.tanh()


ACTIVATIONS: dict[Activation, type[nn.Module]] = {"tanh": Tanh, "relu": nn.ReLU, "elu": nn.ELU, "silu": nn.SiLU}


Array = Any  # a tensor, or a numpy array that shares its memory


@dataclass(frozen=True)
class Curve:
    """An activation without a graph."""

    value: Callable[[Array], Array]  # z -> h; may write over z
    slope: Callable[[Array, Array], Array]  # z and h after that -> dh/dz


def _tanh(z: Tensor) -> Tensor:
    return z.mul_(2).sigmoid_().mul_(2).sub_(1) if z.device.type == "cpu" else z.tanh_()


def _sigmoid(z: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * z))  # exp(-z) would overflow


def _silu_slope(z: Tensor, h: Tensor) -> Tensor:
    s = z.sigmoid()
    return s * (1 + z * (1 - s))


TORCH_CURVES: dict[Activation, Curve] = {
    "tanh": Curve(_tanh, lambda z, h: 1 - h * h),
    "relu": Curve(torch.relu_, lambda z, h: h > 0),
    "elu": Curve(nn.functional.elu_, lambda z, h: torch.where(h > 0, 1, h + 1)),
    "silu": Curve(nn.functional.silu, _silu_slope),
}
NUMPY_CURVES: dict[Activation, Curve] = {
    "tanh": Curve(lambda z: np.tanh(z, out=z), lambda z, h: 1 - h * h),
    "relu": Curve(lambda z: np.maximum(z, 0, out=z), lambda z, h: h > 0),
    "elu": Curve(lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))), lambda z, h: np.where(h > 0, 1, h + 1)),
    "silu": Curve(lambda z: z * _sigmoid(z), lambda z, h: _sigmoid(z) * (1 + z * (1 - _sigmoid(z)))),
}
"""For few rows on a CPU: numpy spends half as long on a small operation as torch."""


@dataclass(frozen=True)
class Passes:
    """An MLP written out: linear layers, each (out, in) and (out,), with an activation after all but the last.

    The arrays share the memory of the network's parameters, so they are good for as long as those stay in place.
    """

    weights: list[Array]
    biases: list[Array]
    curve: Curve

    def __call__(self, x: Array) -> Array:
        """The outputs (B, P) for inputs (B, in): arrays of the kind that the weights are."""
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = self.curve.value(_affine(x, weight, bias))
        return _affine(x, self.weights[-1], self.biases[-1])

    def linearise(self, x: Tensor) -> Linearisation:
        """The same numbers as the general `linearise`, to rounding."""
        weights, curve, alike = self.weights, self.curve, self.alike
        inputs, slopes = [alike(x)], []  # of each layer; of each activation
        for weight, bias in zip(weights[:-1], self.biases[:-1], strict=True):
            z = _affine(inputs[-1], weight, bias)
            inputs.append(curve.value(z))
            slopes.append(curve.slope(z, inputs[-1]))
        output = _affine(inputs[-1], weights[-1], self.biases[-1])

        def jvp(v: Tensor) -> Tensor:
            moved = None  # how the inputs of a layer move; those of the first do not
            for i, (weight, bias) in enumerate(self._pieces(alike(v))):
                z = _affine(inputs[i], weight, bias)
                if moved is not None:
                    z += moved @ weights[i].T
                moved = z * slopes[i] if i < len(slopes) else z
            return torch.as_tensor(moved)

        def vjp(u: Tensor) -> Tensor:
            gradient = torch.empty(self._layout[-1][2], dtype=u.dtype, device=u.device)
            back = alike(u)
            for i, (of_weight, of_bias) in reversed(list(enumerate(self._pieces(alike(gradient))))):
                _accumulate(back, inputs[i], of_weight, of_bias)
                if i > 0:
                    back = (back @ weights[i] if len(weights[i]) > 1 else back * weights[i]) * slopes[i - 1]
            return gradient

        return Linearisation(torch.as_tensor(output), jvp, vjp)

    def alike(self, tensor: Tensor) -> Array:
        """The tensor in the form of the weights, sharing its memory."""
        return tensor if isinstance(self.weights[0], Tensor) else tensor.numpy()

    @functools.cached_property
    def _layout(self) -> list[tuple[int, int, int]]:
        """For each layer, where in a vector (D,) its weights begin, its biases begin, and both end."""
        layout, start = [], 0
        for weight in self.weights:
            middle = start + math.prod(weight.shape)
            layout.append((start, middle, middle + len(weight)))
            start = middle + len(weight)
        return layout

    def _pieces(self, vector: Array) -> list[tuple[Array, Array]]:
        """A vector (D,) as weights and biases of each layer, sharing its memory."""
        return [
            (vector[start:middle].reshape(end - middle, -1), vector[middle:end]) for start, middle, end in self._layout
        ]


def _affine(x: Array, weight: Array, bias: Array) -> Array:
    if isinstance(x, Tensor):
        return torch.addmm(bias, x, weight.T)
    z = x @ weight.mT
    z += bias
    return z


def _accumulate(u: Array, x: Array, of_weight: Array, of_bias: Array) -> None:
    """Write the gradient u^T x of a layer's weights, and that of its biases, the sum of the rows of u."""
    if isinstance(x, Tensor):
        of_weight.copy_((x.T @ u).T)  # torch takes four times as long for u^T x where x is narrow
        torch.sum(u, 0, out=of_bias)
    else:
        np.matmul(u.T, x, out=of_weight)
        np.add.reduce(u, 0, out=of_bias)


def orthogonal(layer: nn.Linear, gain: float) -> nn.Linear:
    """Set the weights to `gain` times an orthogonal matrix, and the bias to zero (Saxe et al. 2014)."""
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class MLP(nn.Module):
    """Linear layers with an activation after each but the last, `head`; `trunk` is all before it."""

    def __init__(
        self, inputs: int, hidden_sizes: Sequence[int], outputs: int, activation: Activation, output_gain: float
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width_in, width_out in zip([inputs, *hidden_sizes], hidden_sizes, strict=False):
            layers += [orthogonal(nn.Linear(width_in, width_out), math.sqrt(2)), ACTIVATIONS[activation]()]
        self.trunk = nn.Sequential(*layers)
        self.trunk_size = hidden_sizes[-1] if hidden_sizes else inputs
        self.head = orthogonal(nn.Linear(self.trunk_size, outputs), output_gain)
        self._activation: Activation = activation
        self._linear = [*(layer for layer in self.trunk if isinstance(layer, nn.Linear)), self.head]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))  # type: ignore[no-any-return]

    def infer(self, x: Tensor) -> Tensor:
        """`forward` (B, P) without a graph."""
        passes = self.passes(len(x))
        return torch.as_tensor(passes(passes.alike(x)))

    def infer_each(self, thetas: Tensor, x: Tensor) -> Tensor:
        """`infer` (B, P) on a CPU, each row of `x` (B, in) with the parameters in its row of `thetas` (B, D)."""
        theta, weights, biases, start = thetas.numpy(), [], [], 0
        for layer in self._linear:
            middle = start + layer.weight.numel()
            weights.append(theta[:, start:middle].reshape(-1, *layer.weight.shape))
            biases.append(theta[:, None, middle : middle + len(layer.bias)])
            start = middle + len(layer.bias)
        passes = Passes(weights, biases, NUMPY_CURVES[self._activation])
        return torch.from_numpy(passes(x.numpy()[:, None])[:, 0])

    def linearise(self, x: Tensor) -> Linearisation:
        """Outputs and products. A large batch goes in pieces that fit into the cache from one layer to the next."""
        passes = self.passes(len(x))
        if len(x) <= PIECE:
            return passes.linearise(x)
        return join([passes.linearise(piece) for piece in x.split(PIECE)])

    def passes(self, rows: int) -> Passes:
        """The network as it is, prepared for inputs of `rows` rows; for few of them numpy is faster than torch."""
        weights = [layer.weight.detach() for layer in self._linear]
        biases = [layer.bias.detach() for layer in self._linear]
        few = rows < FEW and weights[0].device.type == "cpu"
        if not few:
            return Passes(weights, biases, TORCH_CURVES[self._activation])
        return Passes([w.numpy() for w in weights], [b.numpy() for b in biases], NUMPY_CURVES[self._activation])
