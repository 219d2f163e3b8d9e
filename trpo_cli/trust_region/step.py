"""How far to go along a direction: each rule takes the problem, the direction and the radius delta."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

import torch
from torch import Tensor

from trpo_cli.ranges import NonNegativeInt, Positive, Shrink
from trpo_cli.trust_region.problem import Evaluation, Problem

Constraint = Callable[[Tensor, Tensor], Tensor]


class Outcome(Enum):
    """Why an update was accepted, or why theta stayed bit for bit what it was."""

    ACCEPTED = auto()
    ZERO_GRADIENT = auto()
    NON_FINITE_GRADIENT = auto()
    NON_FINITE_LOSS = auto()
    BAD_CURVATURE = auto()
    NO_IMPROVEMENT = auto()
    CONSTRAINT_VIOLATED = auto()


@dataclass(frozen=True)
class Direction:
    """Where to go: x with A x = g."""

    x: Tensor  # (D,)
    slope: float  # g^T x, the predicted improvement of a step of length one
    curvature: float  # x^T A x, of the undamped metric


@dataclass(frozen=True)
class Step:
    """The outcome of a step; `theta` and `evaluation` are None unless it was accepted."""

    outcome: Outcome
    length: float  # beta, of the last candidate
    theta: Tensor | None = None  # (D,)
    evaluation: Evaluation | None = None  # of `theta`
    backtracks: int = 0


def _accept_if_finite(problem: Problem, theta: Tensor, length: float) -> Step:
    """Accept `theta` if it, the objective and the KL are finite."""
    with torch.no_grad():
        evaluation = problem.evaluate(theta)
        if all(x.isfinite().all() for x in (theta, evaluation.objective, evaluation.kl)):
            return Step(Outcome.ACCEPTED, length, theta, evaluation)
    return Step(Outcome.NON_FINITE_LOSS, length)


def full_length(direction: Direction, delta: float) -> float:
    """beta = sqrt(2 delta / x^T A x), where the quadratic model of the KL is delta (the TRPO paper, appendix C)."""
    return math.sqrt(2 * delta / direction.curvature)


def fixed(problem: Problem, direction: Direction, delta: float, *, multiplier: Positive) -> Step:
    """theta + multiplier x: the natural gradient with a fixed multiplier, a baseline of the TRPO paper.

    It has no radius, so `delta` does not matter.
    """
    return _accept_if_finite(problem, problem.theta_old + multiplier * direction.x, multiplier)


def normalised(problem: Problem, direction: Direction, delta: float) -> Step:
    """theta + beta x, without a line search: the natural gradient, and with A = I a step to the Euclidean ball.

    These are the solutions of equations 17 and 18 of the TRPO paper, whose objective is linear in theta.
    """
    length = full_length(direction, delta)
    return _accept_if_finite(problem, problem.theta_old + length * direction.x, length)


def line_search(
    problem: Problem,
    direction: Direction,
    delta: float,
    *,
    constraint: Constraint,
    shrink: Shrink,
    max_backtracks: NonNegativeInt,
) -> Step:
    """Shrink the full step until the objective improves and the constraint holds (the TRPO paper, appendix C).

    The candidates have length beta, shrink beta, shrink^2 beta, ...: `max_backtracks` of them after the first. The
    constraint is tested on the true KL(old || new), never on its quadratic model.
    """
    full = full_length(direction, delta)
    with torch.no_grad():
        for backtracks in range(max_backtracks + 1):
            length = full * shrink**backtracks
            theta = problem.theta_old + length * direction.x
            evaluation = problem.evaluate(theta)
            kl = constraint(evaluation.kl, problem.weight)
            if not all(x.isfinite().all() for x in (theta, evaluation.objective, kl)):
                outcome = Outcome.NON_FINITE_LOSS
            elif not evaluation.objective > problem.start:
                outcome = Outcome.NO_IMPROVEMENT
            elif not kl.item() <= delta:
                outcome = Outcome.CONSTRAINT_VIOLATED
            else:
                return Step(Outcome.ACCEPTED, length, theta, evaluation, backtracks)
    return Step(outcome, length, backtracks=max_backtracks)
