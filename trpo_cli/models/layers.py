"""Linear layers and activations, of which networks consist."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor, nn

from trpo_cli.models.passes import NUMPY_CURVES, TORCH_CURVES, Activation, Passes

FEW = 1024  # rows; with fewer, numpy is faster than torch


class Tanh(nn.Module):
    """tanh; on a CPU computed as 2 sigmoid(2x) - 1, within 2e-7 of torch's own and six times as fast."""

    def forward(self, x: Tensor) -> Tensor:
        return (2 * x).sigmoid().mul(2).sub(1) if x.device.type == "cpu" else x.tanh()


ACTIVATIONS: dict[Activation, type[nn.Module]] = {"tanh": Tanh, "relu": nn.ReLU, "elu": nn.ELU, "silu": nn.SiLU}


Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def orthogonal(layer: Layer, gain: float) -> Layer:
    """Set the weights to `gain` times an orthogonal matrix, and the bias to zero (Saxe et al. 2014)."""
    nn.init.orthogonal_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class Layers(nn.Sequential):
    """Linear layers of the given widths, with an activation after each."""

    def __init__(self, inputs: int, widths: Sequence[int], activation: Activation) -> None:
        layers: list[nn.Module] = []
        for width_in, width_out in zip([inputs, *widths], widths, strict=False):
            layers += [orthogonal(nn.Linear(width_in, width_out), math.sqrt(2)), ACTIVATIONS[activation]()]
        super().__init__(*layers)
        self.size = widths[-1] if widths else inputs

    @property
    def linear(self) -> list[nn.Linear]:
        return [layer for layer in self if isinstance(layer, nn.Linear)]


def write_out(layers: Sequence[nn.Linear], active: int, activation: Activation, rows: int) -> Passes:
    """The passes of layers as they are, for inputs of `rows` rows; for few of them numpy is faster than torch."""
    weights = [layer.weight.detach() for layer in layers]
    biases = [layer.bias.detach() for layer in layers]
    if rows >= FEW or weights[0].device.type != "cpu":
        return Passes(weights, biases, TORCH_CURVES[activation], active)
    return Passes([w.numpy() for w in weights], [b.numpy() for b in biases], NUMPY_CURVES[activation], active)


def write_out_each(layers: Sequence[nn.Linear], active: int, activation: Activation, thetas: Tensor) -> Passes:
    """The passes of layers on a CPU with each row of `thetas` (B, D) as parameters, for inputs (B, 1, in)."""
    theta, weights, biases, start = thetas.numpy(), [], [], 0
    for layer in layers:
        middle = start + layer.weight.numel()
        weights.append(theta[:, start:middle].reshape(-1, *layer.weight.shape))
        biases.append(theta[:, None, middle : middle + len(layer.bias)])
        start = middle + len(layer.bias)
    return Passes(weights, biases, NUMPY_CURVES[activation], active)
