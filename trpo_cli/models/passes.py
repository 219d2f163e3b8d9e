"""The passes of layers written out: forward, J v and J^T u, without a graph to build at every step."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from trpo_cli.models.linearisation import Linearisation

Activation = Literal["tanh", "relu", "elu", "silu"]
Array = Any  # a tensor, or a numpy array that shares its memory


@dataclass(frozen=True)
class Curve:
    """An activation without a graph."""

    value: Callable[[Array], Array]  # z -> h; may write over z
    slope: Callable[[Array, Array], Array]  # z and h after that -> dh/dz


def _tanh(z: Tensor) -> Tensor:
    return z.mul_(2).sigmoid_().mul_(2).sub_(1) if z.device.type == "cpu" else z.tanh_()


def sigmoid(z: Array) -> Array:
    """The logistic function."""
    return 0.5 * (1 + np.tanh(0.5 * z))  # exp(-z) would overflow


def _silu_slope(z: Tensor, h: Tensor) -> Tensor:
    s = z.sigmoid()
    return s * (1 + z * (1 - s))


TORCH_CURVES: dict[Activation, Curve] = {
    "tanh": Curve(_tanh, lambda z, h: 1 - h * h),
    "relu": Curve(torch.relu_, lambda z, h: h > 0),
    "elu": Curve(functional.elu_, lambda z, h: torch.where(h > 0, 1, h + 1)),
    "silu": Curve(functional.silu, _silu_slope),
}
NUMPY_CURVES: dict[Activation, Curve] = {
    "tanh": Curve(lambda z: np.tanh(z, out=z), lambda z, h: 1 - h * h),
    "relu": Curve(lambda z: np.maximum(z, 0, out=z), lambda z, h: h > 0),
    "elu": Curve(lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))), lambda z, h: np.where(h > 0, 1, h + 1)),
    "silu": Curve(lambda z: z * sigmoid(z), lambda z, h: sigmoid(z) * (1 + z * (1 - sigmoid(z)))),
}
"""For few rows on a CPU: numpy spends half as long on a small operation as torch."""


@dataclass(frozen=True)
class Passes:
    """Linear layers written out, each (out, in) and (out,), of which the first `active` are followed by an activation.

    The arrays share the memory of the network's parameters, so they are good for as long as those stay in place.
    """

    weights: list[Array]
    biases: list[Array]
    curve: Curve
    active: int

    def __call__(self, x: Array) -> Array:
        """The outputs (B, P) for inputs (B, in): arrays of the kind that the weights are."""
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = affine(x, weight, bias)
            if i < self.active:
                x = self.curve.value(x)
        return x

    def linearise(self, x: Tensor) -> Linearisation:
        """The same numbers as the general `linearise`, to rounding."""
        trace = self.trace(x)
        return Linearisation(trace.output, trace.jvp, lambda u: trace.vjp(u)[0])

    def trace(self, x: Tensor) -> Trace:
        """Go forward, and keep what the products need."""
        inputs, slopes = [self.alike(x)], []
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            z = affine(inputs[-1], weight, bias)
            if i < self.active:
                inputs.append(self.curve.value(z))
                slopes.append(self.curve.slope(z, inputs[-1]))
            else:
                inputs.append(z)
        return Trace(self, inputs, slopes)

    def alike(self, tensor: Tensor) -> Array:
        """The tensor in the form of the weights, sharing its memory."""
        return tensor if isinstance(self.weights[0], Tensor) else tensor.numpy()

    @functools.cached_property
    def layout(self) -> list[tuple[int, int, int]]:
        """For each layer, where in a vector (D,) its weights begin, its biases begin, and both end."""
        layout, start = [], 0
        for weight in self.weights:
            middle = start + math.prod(weight.shape)
            layout.append((start, middle, middle + len(weight)))
            start = middle + len(weight)
        return layout

    def pieces(self, vector: Array) -> list[tuple[Array, Array]]:
        """A vector (D,) as weights and biases of each layer, sharing its memory."""
        return [
            (vector[start:middle].reshape(end - middle, -1), vector[middle:end]) for start, middle, end in self.layout
        ]


@dataclass(frozen=True)
class Trace:
    """A forward pass of layers, and its products with the Jacobian by parameters and inputs."""

    passes: Passes
    inputs: list[Array]  # of each layer; the last are the outputs
    slopes: list[Array]  # of each activation

    @property
    def output(self) -> Tensor:
        """(B, P)."""
        return torch.as_tensor(self.inputs[-1])

    def jvp(self, v: Tensor, inputs_move: Tensor | None = None) -> Tensor:
        """How the outputs (B, P) move if the parameters move by v (D,), and the inputs (B, in) as given, if they do."""
        passes = self.passes
        moved = None if inputs_move is None else passes.alike(inputs_move)
        for i, (weight, bias) in enumerate(passes.pieces(passes.alike(v))):
            z = affine(self.inputs[i], weight, bias)
            if moved is not None:
                z += moved @ passes.weights[i].T
            moved = z * self.slopes[i] if i < passes.active else z
        return torch.as_tensor(moved)

    def vjp(self, u: Tensor, by_inputs: bool = False) -> tuple[Tensor, Tensor]:
        """The gradient (D,) of u . outputs, and where asked for that by the inputs (B, in)."""
        passes, weights = self.passes, self.passes.weights
        gradient, back = u.new_empty(passes.layout[-1][2]), passes.alike(u)
        for i, (of_weight, of_bias) in reversed(list(enumerate(passes.pieces(passes.alike(gradient))))):
            if i < passes.active:
                back = back * self.slopes[i]
            _accumulate(back, self.inputs[i], of_weight, of_bias)
            if i > 0 or by_inputs:
                back = back @ weights[i] if len(weights[i]) > 1 else back * weights[i]
        return gradient, torch.as_tensor(back)


def affine(x: Array, weight: Array, bias: Array) -> Array:
    """x weight^T + bias, for tensors or arrays."""
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
