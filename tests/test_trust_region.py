"""The trust region: products against dense matrices, the solve against a direct one, and steps that keep their word."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from trpo_cli.trust_region.constraint import max_kl, mean_kl
from trpo_cli.trust_region.fisher import empirical, gauss_newton, identity, kl_hessian
from trpo_cli.trust_region.geometry import Geometry, MatVec, Scores
from trpo_cli.trust_region.problem import Evaluation, Problem
from trpo_cli.trust_region.solve import conjugate_gradient
from trpo_cli.trust_region.step import Direction, Outcome, Step, fixed, line_search, normalised
from trpo_cli.trust_region.update import Update, update

METRICS = {"identity": identity, "gauss_newton": gauss_newton, "kl_hessian": kl_hessian, "empirical": empirical}
SEARCH = partial(line_search, constraint=mean_kl, shrink=0.8, max_backtracks=10)


class Case(NamedTuple):
    problem: Problem
    geometry: Geometry


def slope(objective: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    """The gradient of the objective at theta."""
    theta = theta.clone().requires_grad_()
    return torch.autograd.grad(objective(theta), theta)[0]


class Matrix(NamedTuple):
    """A Jacobian that is known."""

    value: Tensor  # (S, P, D)

    def jvp(self, v: Tensor) -> Tensor:
        return self.value @ v

    def vjp(self, u: Tensor) -> Tensor:
        return self.value.flatten(0, 1).T @ u.flatten()


def softmax_case(states: int = 6, seed: int = 0, scale: float = 1.0) -> Case:
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

    problem = Problem(
        theta_old=theta,
        start=objective(theta),
        gradient=lambda: slope(objective, theta),
        evaluate=lambda theta: Evaluation(objective(theta), kl(outputs(theta))),
        weight=weight,
    )
    geometry = Geometry(
        theta_old=theta,
        weight=weight,
        outputs=outputs,
        kl=kl,
        linearise=lambda: Matrix(jacobian),
        fisher=fisher,
        scores=lambda: Scores(value=torch.eye(3, dtype=old.dtype) - old.exp()[:, None], share=old.exp()),
    )
    return Case(problem, geometry)


def solved(case: Case, **changes: Any) -> Update:
    settings: dict[str, Any] = {
        "metric": gauss_newton,
        "step": SEARCH,
        "delta": 0.01,
        "cg_iterations": 20,
        "cg_tolerance": 1e-10,
        "damping": 1e-6,
        "damping_retries": 0,
    }
    settings |= changes
    metric = settings.pop("metric")
    return update(case.problem, lambda: metric(case.geometry), **settings)


def dense(product: Any, size: int) -> Tensor:
    return torch.stack([product(column) for column in torch.eye(size, dtype=torch.float64)], dim=1)


# --- metric


@pytest.mark.parametrize("name", ["gauss_newton", "kl_hessian", "empirical"])
@pytest.mark.parametrize("seed", range(3))
def test_fisher_vector_product_is_the_dense_hessian(name: str, seed: int) -> None:
    problem, geometry = softmax_case(seed=seed)
    hessian = torch.autograd.functional.hessian(
        lambda theta: mean_kl(problem.evaluate(theta).kl, problem.weight), problem.theta_old
    )
    torch.testing.assert_close(dense(METRICS[name](geometry), 8), hessian, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_both_fisher_vector_products_agree(seed: int) -> None:
    geometry = softmax_case(seed=seed).geometry
    v = torch.randn(8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(gauss_newton(geometry)(v), kl_hessian(geometry)(v), atol=1e-6, rtol=1e-6)


def test_products_leave_theta_alone_and_can_be_repeated() -> None:
    geometry = softmax_case().geometry
    before, v = geometry.theta_old.clone(), torch.ones(8, dtype=torch.float64)
    for metric in METRICS.values():
        product = metric(geometry)
        assert torch.equal(product(v), product(v))
    assert torch.equal(geometry.theta_old, before)
    assert not geometry.theta_old.requires_grad


def test_a_metric_asks_for_nothing_that_it_does_not_use() -> None:
    """Each gets a geometry in which everything else is None."""
    geometry, v = softmax_case().geometry, torch.ones(8, dtype=torch.float64)
    used = {
        identity: (),
        gauss_newton: ("weight", "linearise", "fisher"),
        empirical: ("weight", "linearise", "scores"),
        kl_hessian: ("weight", "theta_old", "outputs", "kl"),
    }
    for metric, names in used.items():
        rest = {field.name: None for field in dataclasses.fields(geometry) if field.name not in names}
        needed: Any = dataclasses.replace(geometry, **rest)
        assert torch.equal(metric(needed)(v), metric(geometry)(v))


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


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_tolerance_of_conjugate_gradient_is_relative(scale: float) -> None:
    """The first iterate whose residual is at most the tolerance times ||b|| is taken."""
    a, b = positive_definite(30)
    solution = conjugate_gradient(lambda v: a @ v, scale * b, iterations=30, tolerance=1e-3)
    before = conjugate_gradient(lambda v: a @ v, b, iterations=solution.iterations - 1, tolerance=0.0)
    assert solution.residual <= 1e-3 < before.residual


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
    case = softmax_case(seed=seed)
    problem = case.problem
    result = solved(case, delta=delta, step=partial(line_search, constraint=constraint, shrink=0.7, max_backtracks=40))
    assert result.outcome is Outcome.ACCEPTED
    assert constraint(problem.evaluate(result.theta).kl, problem.weight).item() <= delta
    assert problem.evaluate(result.theta).objective > problem.start
    assert result.evaluation.objective == problem.evaluate(result.theta).objective
    assert torch.equal(result.evaluation.kl, problem.evaluate(result.theta).kl)


def test_line_search_tests_the_kl_from_old_to_new() -> None:
    """A radius between the two directions of the KL tells them apart: only KL(old || new) may decide."""
    problem, geometry = softmax_case(seed=1)
    gradient = problem.gradient()
    product = gauss_newton(geometry)(gradient)
    direction = Direction(gradient, gradient.dot(gradient).item(), gradient.dot(product).item())
    theta = problem.theta_old + gradient
    old_to_new = mean_kl(problem.evaluate(theta).kl, problem.weight).item()
    length_one = old_to_new * (1 + 1e-9)
    scaled = dataclasses.replace(direction, curvature=2 * length_one)  # the first candidate has length one
    assert SEARCH(problem, scaled, length_one).backtracks == 0
    scaled = dataclasses.replace(direction, curvature=2 * old_to_new * (1 - 1e-9))
    assert SEARCH(problem, scaled, old_to_new * (1 - 1e-9)).backtracks > 0


def test_small_steps_do_what_the_models_predict() -> None:
    """For delta -> 0 the KL is delta, and the improvement is the slope."""
    case = softmax_case()
    problem, result = case.problem, solved(case, step=normalised, delta=1e-8, damping=0.0)
    assert mean_kl(problem.evaluate(result.theta).kl, problem.weight).item() == pytest.approx(1e-8, rel=1e-3)
    gained = (problem.evaluate(result.theta).objective - problem.start).item()
    assert gained == pytest.approx(result.metrics["predicted_improvement"], rel=1e-3)


def test_normalised_step_is_the_natural_gradient() -> None:
    """theta + u sqrt(2 delta / u^T F u), u = F^-1 grad: equation 17 of the TRPO paper, solved."""
    problem, geometry = softmax_case()
    fisher, gradient = dense(gauss_newton(geometry), 8), problem.gradient()
    damped = fisher + 1e-3 * torch.eye(8, dtype=torch.float64)
    u = torch.linalg.solve(damped, gradient)
    result = solved(Case(problem, geometry), step=normalised, damping=1e-3, cg_iterations=50, cg_tolerance=1e-14)
    torch.testing.assert_close(
        result.theta, problem.theta_old + u * math.sqrt(0.02 / (u @ fisher @ u)), rtol=1e-6, atol=1e-8
    )


def test_normalised_step_without_a_metric_ends_on_the_euclidean_ball() -> None:
    """theta + sqrt(2 delta) u / |u|, u = grad: equation 18 of the TRPO paper, solved."""
    case = softmax_case()
    problem, u = case.problem, case.problem.gradient()
    result = solved(case, metric=identity, step=normalised, damping=0.0, cg_iterations=1)
    torch.testing.assert_close(result.theta, problem.theta_old + math.sqrt(0.02) * u / u.norm())


def test_fixed_multiplier_scales_the_natural_gradient() -> None:
    case = softmax_case()
    small = solved(case, step=partial(fixed, multiplier=0.01)).theta - case.problem.theta_old
    large = solved(case, step=partial(fixed, multiplier=0.03)).theta - case.problem.theta_old
    torch.testing.assert_close(large, 3 * small)
    assert small @ case.problem.gradient() > 0


def test_the_natural_step_does_not_depend_on_the_parametrisation() -> None:
    """Stretching the parameters changes the gradient, but not the distribution that the natural gradient reaches."""
    case, stretch = softmax_case(), torch.linspace(0.5, 3, 8, dtype=torch.float64)
    problem, geometry = case
    stretched = Case(
        dataclasses.replace(
            problem,
            theta_old=problem.theta_old / stretch,
            gradient=lambda: problem.gradient() * stretch,
            evaluate=lambda t: problem.evaluate(t * stretch),
        ),
        dataclasses.replace(geometry, linearise=lambda: Matrix(geometry.linearise().value * stretch)),
    )
    exact = {"step": normalised, "damping": 1e-12, "cg_iterations": 60, "cg_tolerance": 1e-13, "delta": 1e-4}
    reached = solved(case, **exact).theta
    torch.testing.assert_close(solved(stretched, **exact).theta * stretch, reached, rtol=1e-4, atol=1e-6)


# --- failures leave theta untouched


def broken(
    objective: Callable[[Tensor], Tensor] | None = None,
    kl: Callable[[Tensor], Tensor] | None = None,
    weight: Tensor | None = None,
    fisher: MatVec | None = None,
) -> Case:
    problem, geometry = softmax_case()
    value = objective or (lambda theta: problem.evaluate(theta).objective)
    distance = kl or (lambda theta: problem.evaluate(theta).kl)
    return Case(
        dataclasses.replace(
            problem,
            start=value(problem.theta_old),
            gradient=lambda: slope(value, problem.theta_old),
            evaluate=lambda theta: Evaluation(value(theta), distance(theta)),
            weight=problem.weight if weight is None else weight,
        ),
        dataclasses.replace(geometry, fisher=fisher or geometry.fisher),
    )


START = softmax_case().problem.theta_old
NAN = torch.tensor(float("nan"), dtype=torch.float64)
FAILURES: dict[str, tuple[Case, dict[str, Any], Outcome]] = {
    "zero gradient": (broken(objective=lambda t: 0.0 * t.sum()), {}, Outcome.ZERO_GRADIENT),
    "gradient not finite": (
        broken(objective=lambda t: (t - t).clamp(min=0).sqrt().sum()),
        {},
        Outcome.NON_FINITE_GRADIENT,
    ),
    "one derivative not finite": (
        broken(objective=lambda t: t.sum() + (t - t.detach())[0].sqrt()),
        {},
        Outcome.NON_FINITE_GRADIENT,
    ),
    "loss not finite": (broken(objective=lambda t: t.sum() * NAN), {}, Outcome.NON_FINITE_LOSS),
    "negative curvature": (broken(fisher=lambda v: -v), {}, Outcome.BAD_CURVATURE),
    "zero curvature": (broken(fisher=lambda v: 0 * v), {}, Outcome.BAD_CURVATURE),
    "curvature not finite": (broken(fisher=lambda v: v * NAN), {}, Outcome.BAD_CURVATURE),
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
    case, changes, outcome = FAILURES[failure]
    before = case.problem.theta_old.clone()
    result = solved(case, damping_retries=retries, **changes)
    assert result.outcome is outcome
    assert result.theta is None
    assert torch.equal(case.problem.theta_old, before)


@pytest.mark.parametrize("rule", [partial(fixed, multiplier=1.0), normalised, SEARCH])
@pytest.mark.parametrize("where", ["parameters", "kl"])
def test_one_number_that_is_not_finite_is_enough(rule: Any, where: str) -> None:
    """Even where the objective improves, and does not depend on it."""
    x, kl = torch.ones(8, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    (x if where == "parameters" else kl)[0] = math.inf
    case = broken(objective=lambda t: t[1:].sum(), kl=lambda t: kl)
    assert rule(case.problem, Direction(x, slope=1.0, curvature=1.0), 0.01).outcome is Outcome.NON_FINITE_LOSS


def test_raised_damping_rescues_an_indefinite_metric() -> None:
    """One eigenvalue is -0.5: with damping 1 the direction still has negative curvature, with ten times as much not."""
    values = torch.tensor([1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 3.0, -0.5], dtype=torch.float64)
    case = broken(objective=lambda t: t.sum(), kl=lambda t: 0.5 * (t - START).square(), weight=torch.ones(8))
    bent = {"metric": lambda _: lambda v: values * v, "damping": 1.0, "delta": 0.5}
    assert solved(case, **bent, damping_retries=0).outcome is Outcome.BAD_CURVATURE
    assert solved(case, **bent, damping_retries=1).outcome is Outcome.ACCEPTED


@pytest.mark.parametrize(("damping", "tried"), [(0.0, [0.0, 1e-3, 1e-2]), (0.5, [0.5, 5.0, 50.0])])
def test_every_retry_has_ten_times_the_damping(damping: float, tried: list[float]) -> None:
    problem, seen = broken(objective=lambda t: t.sum()), []

    def failing(problem: Problem, direction: Direction, delta: float) -> Step:
        seen.append(1 / direction.x[0].item() - 1)  # x = g / (1 + damping), and g = 1
        return Step(Outcome.NO_IMPROVEMENT, 0.0)

    solved(problem, metric=identity, step=failing, damping=damping, damping_retries=2)
    assert seen == pytest.approx(tried)


def test_a_parameter_without_a_gradient_stops_no_update() -> None:
    problem = broken(objective=lambda t: t[1:].sum(), kl=lambda t: torch.zeros(6))
    assert solved(problem, metric=identity).outcome is Outcome.ACCEPTED


def test_an_infinite_curvature_is_a_bad_one() -> None:
    tiny = {"metric": lambda _: lambda v: 1e-100 * v, "damping": 0.0}
    assert solved(broken(objective=lambda t: 1e150 * t.sum()), **tiny).outcome is Outcome.BAD_CURVATURE


def test_where_the_curvature_is_bad_no_step_is_reported() -> None:
    metrics = solved(broken(fisher=lambda v: -v)).metrics
    assert (metrics["step_length"], metrics["predicted_improvement"]) == (0, 0)


def test_a_rejected_search_reports_its_last_candidate() -> None:
    result = solved(broken(kl=lambda t: torch.ones(6)))
    curvature, backtracks = result.metrics["curvature"], result.metrics["backtracks"]
    assert curvature is not None
    assert backtracks == 10
    assert result.metrics["step_length"] == pytest.approx(0.8**10 * math.sqrt(2 * 0.01 / curvature))


def test_every_metric_is_reported_whatever_happens() -> None:
    rejected = solved(broken(objective=lambda t: 0.0 * t.sum()))
    assert rejected.metrics.keys() == solved(softmax_case()).metrics.keys()
    assert set(rejected.metrics.values()) == {None}
