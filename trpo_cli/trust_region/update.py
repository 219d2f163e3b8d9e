"""One trust-region update: gradient -> metric -> solve -> step. The known methods are pairs of a metric and a step:

method                            metric                      step
vanilla gradient, Euclidean ball  identity                    normalised
natural gradient                  gauss_newton | kl_hessian   normalised
natural gradient, multiplier      gauss_newton | kl_hessian   fixed
TRPO                              gauss_newton | kl_hessian   line_search with mean_kl
TRPO, empirical Fisher            empirical                   line_search with mean_kl
TRPO, max KL                      gauss_newton | kl_hessian   line_search with max_kl
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from trpo_cli.trust_region.problem import MatVec, Problem
from trpo_cli.trust_region.solve import Solution, conjugate_gradient
from trpo_cli.trust_region.step import Direction, Outcome, Step

Metric = Callable[[Problem], MatVec]
StepRule = Callable[[Problem, Direction, float], Step]

DAMPING_GROWTH = 10.0
SMALLEST_RAISED_DAMPING = 1e-3  # where raising starts when the damping was zero


@dataclass(frozen=True)
class Update:
    """What one update did; `theta` is `problem.theta_old` itself unless the outcome is ACCEPTED."""

    theta: Tensor  # (D,)
    outcome: Outcome
    metrics: dict[str, float | None]


def update(
    problem: Problem,
    *,
    metric: Metric,
    step: StepRule,
    delta: float,
    cg_iterations: int,
    cg_tolerance: float,
    damping: float,
    damping_retries: int,
) -> Update:
    """Solve the problem approximately (seed 004, section 1.5.1).

    A direction of bad curvature or a step that fails is tried again, at most `damping_retries` times, with ten times
    the damping: more damping turns the direction towards the gradient and makes the solve better conditioned.
    """
    value, gradient = problem.value_and_gradient()
    if not math.isfinite(value):
        return _rejected(problem, Outcome.NON_FINITE_LOSS)
    if not gradient.isfinite().all():
        return _rejected(problem, Outcome.NON_FINITE_GRADIENT)
    if not gradient.any():
        return _rejected(problem, Outcome.ZERO_GRADIENT)

    product = metric(problem)
    for _ in range(damping_retries + 1):
        solution, direction = _direction(product, gradient, damping, cg_iterations, cg_tolerance)
        if math.isfinite(direction.curvature) and direction.curvature > 0:
            taken = step(problem, direction, delta)
        else:
            taken = Step(Outcome.BAD_CURVATURE, 0.0)
        if taken.theta is not None:
            break
        damping = max(damping * DAMPING_GROWTH, SMALLEST_RAISED_DAMPING)
    theta = problem.theta_old if taken.theta is None else taken.theta
    return Update(theta, taken.outcome, _metrics(taken, solution, direction))


def _direction(
    product: MatVec, gradient: Tensor, damping: float, cg_iterations: int, cg_tolerance: float
) -> tuple[Solution, Direction]:
    """x with (A + damping I) x = g, and its curvature x^T A x: damping steadies the solve, it is no part of the KL."""
    solution = conjugate_gradient(lambda v: product(v) + damping * v, gradient, cg_iterations, cg_tolerance)
    x = solution.x
    return solution, Direction(x, slope=gradient.dot(x).item(), curvature=x.dot(product(x)).item())


def _rejected(problem: Problem, outcome: Outcome) -> Update:
    return Update(problem.theta_old, outcome, dict.fromkeys(METRICS))


METRICS = ("cg_residual", "cg_iterations", "curvature", "step_length", "predicted_improvement", "backtracks")


def _metrics(taken: Step, solution: Solution, direction: Direction) -> dict[str, float | None]:
    return {
        "cg_residual": solution.residual,
        "cg_iterations": float(solution.iterations),
        "curvature": direction.curvature,
        "step_length": taken.length,
        "predicted_improvement": taken.length * direction.slope,
        "backtracks": float(taken.backtracks),
    }
