"""The trust region: products against dense matrices, the solve against a direct one, and steps that keep their word."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from trpo_cli.trust_region.constraint import max_kl, mean_kl
from trpo_cli.trust_region.fisher import empirical, gauss_newton, identity, kl_hessian
from trpo_cli.trust_region.problem import Evaluation, Problem
from trpo_cli.trust_region.solve import conjugate_gradient
from trpo_cli.trust_region.step import Direction, Outcome, fixed, line_search, normalised
from trpo_cli.trust_region.update import Update, update

METRICS = {"identity": identity, "gauss_newton": gauss_newton, "kl_hessian": kl_hessian, "empirical": empirical}
SEARCH = partial(line_search, constraint=mean_kl, shrink=0.8, max_backtracks=10)


def softmax_problem(states: int = 6, seed: int = 0, scale: float = 1.0) -> Problem:
    """A nonlinear softmax policy with three actions and exact expectations; D = 8 parameters, unequal weights."""
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    features, mixing, advantage, theta = draw(states, 4), draw(4, 2, 3), scale * draw(states, 3), draw(8)
    weight = torch.rand(states, generator=generator, dtype=torch.float64)
    weight = weight / weight.mean()

    def outputs(theta: Tensor) -> Tensor:
        hidden = (features * theta[:4]).tanh()
        return (
            torch.einsum("sf,fhk,h->sk", hidden, mixing, theta[4:6].sin())
            + theta[6] * features[:, :3]
            + theta[7] * features[:, 1:]
        )

    old, jacobian = outputs(theta).log_softmax(-1), torch.autograd.functional.jacobian(outputs, theta)

    def kl(logits: Tensor) -> Tensor:
        return (old.exp() * (old - logits.log_softmax(-1))).sum(-1)

    def fisher(v: Tensor) -> Tensor:
        p = old.exp()
        return p * (v - (p * v).sum(-1, keepdim=True))

    def objective(theta: Tensor) -> Tensor:
        return (weight * (outputs(theta).softmax(-1) * advantage).sum(-1)).mean()

    return Problem(
        theta_old=theta,
        objective=objective,
        evaluate=lambda theta: Evaluation(objective(theta), kl(outputs(theta))),
        weight=weight,
        metric_outputs=outputs,
        metric_jvp=lambda v: jacobian @ v,
        metric_vjp=lambda u: jacobian.flatten(0, 1).T @ u.flatten(),
        metric_kl=kl,
        metric_fisher=fisher,
        metric_weight=weight,
        metric_score=lambda: old.exp().sqrt()[..., None] * (torch.eye(3, dtype=old.dtype) - old.exp()[:, None]),
    )


def solved(problem: Problem, **changes: Any) -> Update:
    settings: dict[str, Any] = {
        "metric": gauss_newton,
        "step": SEARCH,
        "delta": 0.01,
        "cg_iterations": 20,
        "cg_tolerance": 1e-10,
        "damping": 1e-6,
        "damping_retries": 0,
    }
    return update(problem, **{**settings, **changes})


def dense(product: Any, size: int) -> Tensor:
    return torch.stack([product(column) for column in torch.eye(size, dtype=torch.float64)], dim=1)


# --- metric


@pytest.mark.parametrize("name", ["gauss_newton", "kl_hessian", "empirical"])
@pytest.mark.parametrize("seed", range(3))
def test_fisher_vector_product_is_the_dense_hessian(name: str, seed: int) -> None:
    problem = softmax_problem(seed=seed)
    hessian = torch.autograd.functional.hessian(
        lambda theta: mean_kl(problem.evaluate(theta).kl, problem.weight), problem.theta_old
    )
    torch.testing.assert_close(dense(METRICS[name](problem), 8), hessian, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_both_fisher_vector_products_agree(seed: int) -> None:
    problem = softmax_problem(seed=seed)
    v = torch.randn(8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(gauss_newton(problem)(v), kl_hessian(problem)(v), atol=1e-6, rtol=1e-6)


def test_products_leave_theta_alone_and_can_be_repeated() -> None:
    problem = softmax_problem()
    before, v = problem.theta_old.clone(), torch.ones(8, dtype=torch.float64)
    for metric in METRICS.values():
        product = metric(problem)
        assert torch.equal(product(v), product(v))
    assert torch.equal(problem.theta_old, before)
    assert not problem.theta_old.requires_grad


# --- solve


def positive_definite(size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return root @ root.T + size * torch.eye(size, dtype=torch.float64), torch.randn(
        size, generator=generator, dtype=torch.float64
    )


def test_conjugate_gradient_solves() -> None:
    a, b = positive_definite(30)
    solution = conjugate_gradient(lambda v: a @ v, b, iterations=60, tolerance=1e-12)
    torch.testing.assert_close(solution.x, torch.linalg.solve(a, b), atol=1e-10, rtol=1e-8)
    assert solution.iterations < 60


def test_every_iterate_is_the_best_of_its_krylov_space() -> None:
    """After k steps x minimises x^T A x / 2 - b^T x over span(b, Ab, ..., A^(k-1) b): shared storage breaks this."""
    a, b = positive_definite(12)
    for k in range(1, 6):
        krylov = torch.linalg.qr(torch.stack([torch.linalg.matrix_power(a, i) @ b for i in range(k)], dim=1)).Q
        best = krylov @ torch.linalg.solve(krylov.T @ a @ krylov, krylov.T @ b)
        solution = conjugate_gradient(lambda v: a @ v, b, iterations=k, tolerance=0.0)
        torch.testing.assert_close(solution.x, best, atol=1e-9, rtol=1e-7)
        assert solution.residual == pytest.approx(((b - a @ best).norm() / b.norm()).item(), rel=1e-6)


def test_conjugate_gradient_stops_before_a_direction_of_negative_curvature() -> None:
    a = torch.diag(torch.tensor([1.0, -1.0]))
    solution = conjugate_gradient(lambda v: a @ v, torch.tensor([0.5, 1.0]), iterations=5, tolerance=0.0)
    assert solution.iterations == 0
    assert not solution.x.any()


# --- constraint


def test_constraints_are_weighted_mean_and_maximum() -> None:
    kl, weight = torch.tensor([0.1, 0.4]), torch.tensor([1.5, 0.5])
    assert mean_kl(kl, weight).item() == pytest.approx((0.15 + 0.2) / 2)
    assert max_kl(kl, weight).item() == pytest.approx(0.4)


# --- step


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("delta", [1e-4, 0.01, 0.5, 5.0])
@pytest.mark.parametrize("constraint", [mean_kl, max_kl])
def test_line_search_improves_and_never_passes_delta(seed: int, delta: float, constraint: Any) -> None:
    problem = softmax_problem(seed=seed)
    result = solved(
        problem, delta=delta, step=partial(line_search, constraint=constraint, shrink=0.7, max_backtracks=40)
    )
    assert result.outcome is Outcome.ACCEPTED
    assert constraint(problem.evaluate(result.theta).kl, problem.weight).item() <= delta
    assert problem.objective(result.theta) > problem.objective(problem.theta_old)


def test_line_search_tests_the_kl_from_old_to_new() -> None:
    """A radius between the two directions of the KL tells them apart: only KL(old || new) may decide."""
    problem = softmax_problem(seed=1)
    value, gradient = problem.value_and_gradient()
    direction = Direction(gradient, gradient.dot(gradient).item(), gradient.dot(gauss_newton(problem)(gradient)).item())
    theta = problem.theta_old + gradient
    old_to_new = mean_kl(problem.evaluate(theta).kl, problem.weight).item()
    length_one = old_to_new * (1 + 1e-9)
    scaled = dataclasses.replace(direction, curvature=2 * length_one)  # the first candidate has length one
    assert SEARCH(problem, scaled, length_one).backtracks == 0
    scaled = dataclasses.replace(direction, curvature=2 * old_to_new * (1 - 1e-9))
    assert SEARCH(problem, scaled, old_to_new * (1 - 1e-9)).backtracks > 0
    assert value == problem.objective(problem.theta_old).item()


def test_small_steps_do_what_the_models_predict() -> None:
    """For delta -> 0 the KL is delta, and the improvement is the slope."""
    problem = softmax_problem()
    result = solved(problem, step=normalised, delta=1e-8, damping=0.0)
    assert mean_kl(problem.evaluate(result.theta).kl, problem.weight).item() == pytest.approx(1e-8, rel=1e-3)
    gained = (problem.objective(result.theta) - problem.objective(problem.theta_old)).item()
    assert gained == pytest.approx(result.metrics["predicted_improvement"], rel=1e-3)


def test_normalised_step_is_seed_002() -> None:
    """theta + u sqrt(2 eps / grad^T u), u = F^-1 grad."""
    problem = softmax_problem()
    fisher, (_, gradient) = dense(gauss_newton(problem), 8), problem.value_and_gradient()
    damped = fisher + 1e-3 * torch.eye(8, dtype=torch.float64)
    u = torch.linalg.solve(damped, gradient)
    result = solved(problem, step=normalised, damping=1e-3, cg_iterations=50, cg_tolerance=1e-14)
    torch.testing.assert_close(
        result.theta, problem.theta_old + u * math.sqrt(0.02 / (u @ fisher @ u)), rtol=1e-6, atol=1e-8
    )


def test_euclidean_ball_is_seed_002() -> None:
    """theta + sqrt(2 eps) u / |u|, u = grad."""
    problem = softmax_problem()
    result = solved(problem, metric=identity, step=normalised, damping=0.0, cg_iterations=1)
    _, u = problem.value_and_gradient()
    torch.testing.assert_close(result.theta, problem.theta_old + math.sqrt(0.02) * u / u.norm())


def test_fixed_multiplier_scales_the_natural_gradient() -> None:
    problem = softmax_problem()
    small = solved(problem, step=partial(fixed, multiplier=0.01)).theta - problem.theta_old
    large = solved(problem, step=partial(fixed, multiplier=0.03)).theta - problem.theta_old
    torch.testing.assert_close(large, 3 * small)


def test_the_natural_step_does_not_depend_on_the_parametrisation() -> None:
    """Stretching the parameters changes the gradient, but not the distribution that the natural gradient reaches."""
    problem, stretch = softmax_problem(), torch.linspace(0.5, 3, 8, dtype=torch.float64)
    stretched = Problem(
        theta_old=problem.theta_old / stretch,
        objective=lambda t: problem.objective(t * stretch),
        evaluate=lambda t: problem.evaluate(t * stretch),
        weight=problem.weight,
        metric_outputs=lambda t: problem.metric_outputs(t * stretch),
        metric_jvp=lambda v: problem.metric_jvp(v * stretch),
        metric_vjp=lambda u: problem.metric_vjp(u) * stretch,
        metric_kl=problem.metric_kl,
        metric_fisher=problem.metric_fisher,
        metric_weight=problem.metric_weight,
        metric_score=problem.metric_score,
    )
    exact = {"step": normalised, "damping": 1e-12, "cg_iterations": 60, "cg_tolerance": 1e-13, "delta": 1e-4}
    reached = solved(problem, **exact).theta
    torch.testing.assert_close(solved(stretched, **exact).theta * stretch, reached, rtol=1e-4, atol=1e-6)


# --- failures leave theta untouched


def broken(
    objective: Callable[[Tensor], Tensor] | None = None, kl: Callable[[Tensor], Tensor] | None = None, **changes: Any
) -> Problem:
    problem = softmax_problem()
    value, distance = objective or problem.objective, kl or (lambda theta: problem.evaluate(theta).kl)
    return dataclasses.replace(
        problem, objective=value, evaluate=lambda theta: Evaluation(value(theta), distance(theta)), **changes
    )


START = softmax_problem().theta_old
NAN = torch.tensor(float("nan"), dtype=torch.float64)
FAILURES: dict[str, tuple[Problem, dict[str, Any], Outcome]] = {
    "zero gradient": (broken(objective=lambda t: 0.0 * t.sum()), {}, Outcome.ZERO_GRADIENT),
    "gradient not finite": (
        broken(objective=lambda t: (t - t).clamp(min=0).sqrt().sum()),
        {},
        Outcome.NON_FINITE_GRADIENT,
    ),
    "loss not finite": (broken(objective=lambda t: t.sum() * NAN), {}, Outcome.NON_FINITE_LOSS),
    "negative curvature": (broken(metric_fisher=lambda v: -v), {}, Outcome.BAD_CURVATURE),
    "zero curvature": (broken(metric_fisher=lambda v: 0 * v), {}, Outcome.BAD_CURVATURE),
    "curvature not finite": (broken(metric_fisher=lambda v: v * NAN), {}, Outcome.BAD_CURVATURE),
    "no improvement": (
        broken(objective=lambda t: (t - t.detach()).sum() - (t.detach() - START).square().sum()),
        {},
        Outcome.NO_IMPROVEMENT,
    ),
    "constraint violated": (broken(kl=lambda t: torch.ones(6)), {}, Outcome.CONSTRAINT_VIOLATED),
    "kl not finite": (broken(kl=lambda t: NAN.expand(6)), {}, Outcome.NON_FINITE_LOSS),
    "loss not finite after a fixed step": (
        broken(objective=lambda t: t.sum() if torch.equal(t, START) else t.sum() * NAN),
        {"step": partial(fixed, multiplier=0.1)},
        Outcome.NON_FINITE_LOSS,
    ),
    "parameters not finite": (
        broken(objective=lambda t: (1e6 * t).sum().clamp(max=1e9), kl=lambda t: torch.zeros(6)),
        {"step": partial(fixed, multiplier=1e308)},
        Outcome.NON_FINITE_LOSS,
    ),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("retries", [0, 2])
def test_a_failure_leaves_theta_bit_for_bit(failure: str, retries: int) -> None:
    problem, changes, outcome = FAILURES[failure]
    before = problem.theta_old.clone()
    result = solved(problem, damping_retries=retries, **changes)
    assert result.outcome is outcome
    assert torch.equal(result.theta, before)


def test_raised_damping_rescues_an_indefinite_metric() -> None:
    """One eigenvalue is -0.5: with damping 1 the direction still has negative curvature, with ten times as much not."""
    values = torch.tensor([1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 3.0, -0.5], dtype=torch.float64)
    problem = broken(objective=lambda t: t.sum(), kl=lambda t: 0.5 * (t - START).square(), weight=torch.ones(8))
    bent = {"metric": lambda _: lambda v: values * v, "damping": 1.0, "delta": 0.5}
    assert solved(problem, **bent, damping_retries=0).outcome is Outcome.BAD_CURVATURE
    assert solved(problem, **bent, damping_retries=1).outcome is Outcome.ACCEPTED


def test_a_rejected_search_reports_its_last_candidate() -> None:
    result = solved(broken(kl=lambda t: torch.ones(6)))
    curvature, backtracks = result.metrics["curvature"], result.metrics["backtracks"]
    assert curvature is not None
    assert backtracks == 10
    assert result.metrics["step_length"] == pytest.approx(0.8**10 * math.sqrt(2 * 0.01 / curvature))


def test_every_metric_is_reported_whatever_happens() -> None:
    rejected = solved(broken(objective=lambda t: 0.0 * t.sum()))
    assert rejected.metrics.keys() == solved(softmax_problem()).metrics.keys()
    assert set(rejected.metrics.values()) == {None}
