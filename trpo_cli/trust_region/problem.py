"""The constrained problem of one update, as pure functions of a flat parameter vector theta (seed 004, equation 28).

    maximise objective(theta)  subject to  D_KL(theta_old || theta) <= delta

Nothing here holds state, so a candidate that is rejected leaves nothing to undo.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

MatVec = Callable[[Tensor], Tensor]


class Evaluation(NamedTuple):
    """What decides whether a candidate is accepted."""

    objective: Tensor  # scalar
    kl: Tensor  # (S,), D_KL(old || candidate) in each state, in nats


@dataclass(frozen=True)
class Problem:
    """D parameters, S states, P distribution parameters a state; `metric_*` fields may use fewer states.

    Weights have mean one over their states.
    """

    theta_old: Tensor  # (D,)
    objective: Callable[[Tensor], Tensor]  # theta (D,) -> the surrogate, a scalar to maximise, with a graph
    evaluate: Callable[[Tensor], Evaluation]  # of a candidate theta (D,)
    weight: Tensor  # (S,), of each state in the mean KL
    metric_outputs: Callable[[Tensor], Tensor]  # theta (D,) -> distribution parameters (S', P)
    metric_jvp: MatVec  # v (D,) -> J v (S', P), with J the Jacobian of these outputs at theta_old
    metric_vjp: MatVec  # u (S', P) -> J^T u (D,)
    metric_kl: Callable[[Tensor], Tensor]  # distribution parameters (S', P) -> D_KL(old || new) (S',)
    metric_fisher: MatVec  # (S', P) -> (S', P): M v, the Fisher matrix of each state's distribution
    metric_weight: Tensor  # (S',)
    metric_score: Callable[[], Tensor]  # () -> (S', K, P): the sum over K of outer products estimates M in each state

    def value_and_gradient(self) -> tuple[float, Tensor]:
        """The objective at theta_old and its gradient (D,) there."""
        theta = self.theta_old.detach().requires_grad_()
        value = self.objective(theta)
        (gradient,) = torch.autograd.grad(value, theta)
        return value.item(), gradient
