"""How distributions move with theta around theta_old: what a metric measures distances with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

MatVec = Callable[[Tensor], Tensor]


class Jacobian(Protocol):
    """Products with J (S, P, D), the Jacobian of the distribution parameters by theta, at theta_old."""

    @property
    def jvp(self) -> MatVec:
        """v (D,) -> J v (S, P)."""

    @property
    def vjp(self) -> MatVec:
        """u (S, P) -> J^T u (D,)."""


class Scores(NamedTuple):
    """Gradients of log pi(a|s) by the distribution parameters, for K actions in each state."""

    value: Tensor  # (S, K, P)
    share: Tensor  # (S, K), of each action in the mean of its state: they add to one


@dataclass(frozen=True)
class Geometry:
    """S states, which may be fewer than those of the problem, with P distribution parameters each.

    A metric calls what it needs, and nothing else is computed.
    """

    theta_old: Tensor  # (D,)
    weight: Tensor  # (S,), of each state in the mean over states; their mean is one
    outputs: Callable[[Tensor], Tensor]  # theta (D,) -> distribution parameters (S, P), with a graph
    kl: Callable[[Tensor], Tensor]  # distribution parameters (S, P) -> KL(old || new) (S,), in nats
    linearise: Callable[[], Jacobian]
    fisher: MatVec  # v (S, P) -> M v (S, P), with the Fisher matrix M of each state's distribution
    scores: Callable[[], Scores]
