"""How the outputs of a network move with its parameters, which is all that an update needs to know about it.

Everything that learns here follows from J v and J^T u, where J is the Jacobian of the outputs with respect to the
parameters. For a loss l of the outputs, J^T (dl / d outputs) is its gradient with respect to the parameters; J^T M J v
is the Fisher-vector product (the TRPO paper, appendix C.1). `linearise` gives both for any module by automatic
differentiation; `mlp.py` and `cnn.py` have those of networks written out, without a graph to build at every step.

Sizes: B inputs, P outputs, D parameters, in the order of `module.parameters()`.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_exchanging = threading.RLock()


@dataclass(frozen=True)
class Linearisation:
    """The outputs of a module at its parameters, and how they move with them to first order."""

    output: Tensor  # (B, P)
    jvp: Callable[[Tensor], Tensor]  # v (D,) -> J v (B, P)
    vjp: Callable[[Tensor], Tensor]  # u (B, P) -> J^T u (D,)


def outputs(module: nn.Module, theta: Tensor, inputs: Any) -> Tensor:
    """Outputs (B, P) of `module` with the flat parameters `theta` (D,) instead of its own: a pure function."""
    with _exchanging:  # the call puts the values into the module for a moment
        named = dict(module.named_parameters())
        pieces = theta.split([parameter.numel() for parameter in named.values()])
        values = {name: piece.view_as(old) for (name, old), piece in zip(named.items(), pieces, strict=True)}
        return torch.func.functional_call(module, values, (inputs,))  # type: ignore[no-any-return]


def linearise(module: nn.Module, inputs: Any) -> Linearisation:
    """Linearise any module by automatic differentiation.

    J^T u is linear in u, so J v is its derivative with respect to u along v.
    """
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


def join(parts: list[Linearisation]) -> Linearisation:
    """Make one linearisation of those of consecutive rows."""
    rows = [len(part.output) for part in parts]
    return Linearisation(
        output=torch.cat([part.output for part in parts]),
        jvp=lambda v: torch.cat([part.jvp(v) for part in parts]),
        vjp=lambda u: torch.stack([part.vjp(piece) for part, piece in zip(parts, u.split(rows), strict=True)]).sum(0),
    )


def flat(module: nn.Module) -> Tensor:
    """A copy of the parameters as one vector (D,)."""
    return nn.utils.parameters_to_vector(module.parameters()).detach()


def share_memory(module: nn.Module) -> Tensor:
    """Put the parameters into one vector (D,), and return it: to write to it is to move the module."""
    theta = flat(module)
    nn.utils.vector_to_parameters(theta, module.parameters())
    return theta


def size(module: nn.Module) -> int:
    """D, the number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
