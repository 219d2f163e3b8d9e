"""Networks, and what an update needs of one: its outputs, J v and J^T u, with J the Jacobian of outputs by parameters.

Everything that learns here follows from these products. With a loss l of the outputs, J^T (dl / d outputs) is its
gradient by the parameters; J^T M J v is the Fisher-vector product (seed 004, equation 36). `linearise` gives them for
any module by automatic differentiation; an `MLP` has them written out, without a graph to build at every step.

Sizes: B inputs, P outputs, D parameters, in the order of `module.parameters()`.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

Activation = Literal["tanh", "relu", "elu", "silu"]


@dataclass(frozen=True)
class Linearisation:
    """The outputs of a module at its parameters, and how they move with them to first order."""

    output: Tensor  # (B, P)
    jvp: Callable[[Tensor], Tensor]  # v (D,) -> J v (B, P)
    vjp: Callable[[Tensor], Tensor]  # u (B, P) -> J^T u (D,)


def outputs(module: nn.Module, theta: Tensor, inputs: Tensor) -> Tensor:
    """Outputs (B, P) of `module` with the flat parameters `theta` (D,) instead of its own: a pure function."""
    named = dict(module.named_parameters())
    pieces = theta.split([parameter.numel() for parameter in named.values()])
    values = {name: piece.view_as(old) for (name, old), piece in zip(named.items(), pieces, strict=True)}
    return torch.func.functional_call(module, values, (inputs,))  # type: ignore[no-any-return]


def linearise(module: nn.Module, inputs: Tensor) -> Linearisation:
    """By automatic differentiation, for any module. J v is the derivative of J^T u, which is linear in u, along v."""
    theta = flat(module).requires_grad_()
    with torch.enable_grad():
        output = outputs(module, theta, inputs)

    @functools.cache
    def jt_u() -> tuple[Tensor, Tensor]:
        u = torch.zeros_like(output, requires_grad=True)
        return torch.autograd.grad(output, theta, u, create_graph=True)[0], u

    def jvp(v: Tensor) -> Tensor:
        with torch.enable_grad():
            return torch.autograd.grad(*jt_u(), v, retain_graph=True)[0]

    def vjp(u: Tensor) -> Tensor:
        return torch.autograd.grad(output, theta, u, retain_graph=True)[0]

    return Linearisation(output.detach(), jvp, vjp)


def flat(module: nn.Module) -> Tensor:
    """A copy of the parameters as one vector (D,)."""
    return nn.utils.parameters_to_vector(module.parameters()).detach()


def share_memory(module: nn.Module) -> Tensor:
    """The parameters as one vector (D,) that they share their memory with: to write to it is to move the module."""
    theta = flat(module)
    nn.utils.vector_to_parameters(theta, module.parameters())
    return theta


def size(module: nn.Module) -> int:
    """D, the number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


class Adam(nn.Module):
    """torch's Adam on one vector (D,): the function, since the class's bookkeeping outweighs the numbers."""

    first: Tensor
    second: Tensor
    steps: Tensor

    def __init__(self, size: int, epsilon: float = 1e-8) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.register_buffer("first", torch.zeros(size))  # moments
        self.register_buffer("second", torch.zeros(size))
        self.register_buffer("steps", torch.zeros(()))

    @torch.no_grad()
    def step(self, theta: Tensor, gradient: Tensor, learning_rate: float) -> None:
        """One step of descent, which writes to `theta`."""
        adam(
            *([theta], [gradient], [self.first], [self.second], [], [self.steps]),
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=learning_rate,
            weight_decay=0.0,
            eps=self.epsilon,
            maximize=False,
        )


ALL_THREADS = torch.get_num_threads()  # what the machine, or OMP_NUM_THREADS, allows
WORTH_THREADS = 1024  # rows of a batch: with fewer, a second thread costs more than it brings


@contextlib.contextmanager
def threads_for(rows: int) -> Iterator[None]:
    """Run torch for a while on as many threads as work on so many rows can feed."""
    before = torch.get_num_threads()
    torch.set_num_threads(ALL_THREADS if rows >= WORTH_THREADS else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Tanh(nn.Module):
    """2 sigmoid(2x) - 1, which is tanh: six times as fast as torch's own on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        return (2 * x).sigmoid().mul(2).sub(1)


ACTIVATIONS: dict[Activation, type[nn.Module]] = {"tanh": Tanh, "relu": nn.ReLU, "elu": nn.ELU, "silu": nn.SiLU}


@dataclass(frozen=True)
class Curve:
    """An activation without a graph: all but silu write their value over z."""

    value: Callable[[Tensor], Tensor]  # z -> h
    times_slope: Callable[[Tensor, Tensor], Tensor]  # g, z as `value` left it -> g dh/dz


_aten = torch.ops.aten
CURVES: dict[Activation, Curve] = {
    "tanh": Curve(lambda z: z.mul_(2).sigmoid_().mul_(2).sub_(1), _aten.tanh_backward),
    "relu": Curve(torch.relu_, lambda g, h: _aten.threshold_backward(g, h, 0)),
    "elu": Curve(nn.functional.elu_, lambda g, h: _aten.elu_backward(g, 1, 1, 1, True, h)),
    "silu": Curve(nn.functional.silu, _aten.silu_backward),
}


def orthogonal(layer: nn.Linear, gain: float) -> nn.Linear:
    """Orthogonal weights times `gain`, zero bias (Saxe et al. 2014)."""
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
        self._curve = CURVES[activation]
        self._layers = [*(layer for layer in self.trunk if isinstance(layer, nn.Linear)), self.head]
        self._sizes = [parameter.numel() for layer in self._layers for parameter in (layer.weight, layer.bias)]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))  # type: ignore[no-any-return]

    @torch.no_grad()
    def infer(self, x: Tensor) -> Tensor:
        """`forward` (B, P) without a graph."""
        *hidden, head = self._layers
        for layer in hidden:
            x = self._curve.value(torch.addmm(layer.bias, x, layer.weight.t()))
        return torch.addmm(head.bias, x, head.weight.t())

    @torch.no_grad()
    def linearise(self, x: Tensor) -> Linearisation:
        """The same numbers as the general `linearise`, to rounding."""
        layers = self._layers
        inputs, before = [x], []  # of each layer, and the z of each activation
        for layer in layers[:-1]:
            z = torch.addmm(layer.bias, inputs[-1], layer.weight.t())
            inputs.append(self._curve.value(z))
            before.append(z)
        output = torch.addmm(layers[-1].bias, inputs[-1], layers[-1].weight.t())

        @torch.no_grad()
        def jvp(v: Tensor) -> Tensor:
            moved = None  # how the inputs of the layer move; the first layer's do not
            for i, (layer, weight, bias) in enumerate(zip(layers, *self._pieces(v), strict=True)):
                z = torch.addmm(bias, inputs[i], weight.t())
                if moved is not None:
                    z.addmm_(moved, layer.weight.t())
                moved = self._curve.times_slope(z, before[i]) if i < len(before) else z
            return z

        @torch.no_grad()
        def vjp(u: Tensor) -> Tensor:
            gradient = torch.empty(sum(self._sizes), dtype=u.dtype, device=u.device)
            weights, biases = self._pieces(gradient)
            for i in reversed(range(len(layers))):
                torch.mm(u.t(), inputs[i], out=weights[i])
                torch.sum(u, 0, out=biases[i])
                if i > 0:
                    u = self._curve.times_slope(u @ layers[i].weight, before[i - 1])
            return gradient

        return Linearisation(output, jvp, vjp)

    def _pieces(self, vector: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """A vector (D,) as weights and biases of each layer, sharing its memory."""
        pieces = vector.split(self._sizes)
        weights = [piece.view_as(layer.weight) for piece, layer in zip(pieces[::2], self._layers, strict=True)]
        return weights, list(pieces[1::2])
