"""The constrained problem of one update, as pure functions of a flat parameter vector theta.

    maximise objective(theta)  subject to  KL(theta_old || theta) <= delta

The constraint takes the mean KL over states (the TRPO paper, equation 12; equation 14 once samples stand for the
expectations) or the largest one (equation 11). Nothing here holds state, so that a rejected candidate leaves
nothing to undo.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Evaluation(NamedTuple):
    """What decides whether a candidate is accepted."""

    objective: Tensor  # scalar
    kl: Tensor  # (S,), KL(old || candidate) in each state, in nats
    bonus: Tensor | float = 0.0  # what of the objective is not the surrogate


@dataclass(frozen=True)
class Problem:
    """What a step needs. D parameters, S states."""

    theta_old: Tensor  # (D,)
    start: Tensor  # scalar, the objective at theta_old: bit for bit the one that `evaluate` finds there
    gradient: Callable[[], Tensor]  # (D,), of the objective at theta_old
    evaluate: Callable[[Tensor], Evaluation]  # of a candidate theta (D,), in one pass without a graph
    weight: Tensor  # (S,), of each state in the mean KL; their mean is one
