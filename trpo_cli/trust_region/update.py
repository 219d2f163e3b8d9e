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

from trpo_cli.trust_region.geometry import Geometry, MatVec
from trpo_cli.trust_region.problem import Evaluation, Problem
from trpo_cli.trust_region.solve import Solution, conjugate_gradient
from trpo_cli.trust_region.step import Direction, Outcome, Step

Metric = Callable[[Geometry], MatVec]
StepRule = Callable[[Problem, Direction, float], Step]

DAMPING_GROWTH = 10.0
SMALLEST_RAISED_DAMPING = 1e-3  # where raising starts when the damping was zero


@dataclass(frozen=True)
class Update:
    """What one update did; `theta` and `evaluation` are None unless the outcome is ACCEPTED."""

    outcome: Outcome
    metrics: dict[str, float | None]
    theta: Tensor | None = None  # (D,)
    evaluation: Evaluation | None = None  # of `theta`


def update(
    problem: Problem,
    metric: Callable[[], MatVec],
    *,
    step: StepRule,
    delta: float,
    cg_iterations: int,
    cg_tolerance: float,
    damping: float,
    damping_retries: int,
) -> Update:
    """Solve the problem approximately (the TRPO paper, appendix C); `metric` makes the products A v if they are needed.

    After a direction of bad curvature, or a step that fails, it tries again with ten times the damping, at most
    `damping_retries` times: more damping turns the direction towards the gradient and conditions the solve better.
    """
    if not problem.start.isfinite():
        return _reject(Outcome.NON_FINITE_LOSS)
    gradient = problem.gradient()
    if not gradient.isfinite().all():
        return _reject(Outcome.NON_FINITE_GRADIENT)
    if not gradient.any():
        return _reject(Outcome.ZERO_GRADIENT)

    product = metric()
    for _ in range(damping_retries + 1):
        solution, direction = _find_direction(product, gradient, damping, cg_iterations, cg_tolerance)
        if math.isfinite(direction.curvature) and direction.curvature > 0:
            taken = step(problem, direction, delta)
        else:
            taken = Step(Outcome.BAD_CURVATURE, 0.0)
        if taken.outcome is Outcome.ACCEPTED:
            break
        damping = max(damping * DAMPING_GROWTH, SMALLEST_RAISED_DAMPING)
    return Update(taken.outcome, _describe(taken, solution, direction), taken.theta, taken.evaluation)


def _find_direction(
    product: MatVec, gradient: Tensor, damping: float, cg_iterations: int, cg_tolerance: float
) -> tuple[Solution, Direction]:
    """Solve (A + damping I) x = g. The curvature x^T A x has no damping: the quadratic model of the KL has none."""
    solution = conjugate_gradient(lambda v: product(v) + damping * v, gradient, cg_iterations, cg_tolerance)
    x = solution.x
    return solution, Direction(x, slope=gradient.dot(x).item(), curvature=x.dot(product(x)).item())


def _reject(outcome: Outcome) -> Update:
    return Update(outcome, dict.fromkeys(METRICS))


METRICS = ("cg_residual", "cg_iterations", "curvature", "step_length", "predicted_improvement", "backtracks")


def _describe(taken: Step, solution: Solution, direction: Direction) -> dict[str, float | None]:
    return {
        "cg_residual": solution.residual,
        "cg_iterations": float(solution.iterations),
        "curvature": direction.curvature,
        "step_length": taken.length,
        "predicted_improvement": taken.length * direction.slope,
        "backtracks": float(taken.backtracks),
    }
