"""The best policy within a KL ball, against closed forms, a grid, rivals and the conditions that single it out."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trpo_cli.exact import kl_ball
from trpo_cli.exact.kl_ball import kl_divergence, penalised_argmax

ONCE = torch.ones(1, dtype=torch.float64)  # one state, visited once


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def gain(old: Tensor, advantage: Tensor, visitation: Tensor, new: Tensor) -> float:
    return (visitation @ ((new - old) * advantage).sum(-1)).item()


def objective(old: Tensor, advantage: Tensor, visitation: Tensor, coefficient: float, new: Tensor) -> float:
    """What `penalised_argmax` maximises."""
    return gain(old, advantage, visitation, new) - coefficient * kl_divergence(old, new).max().item()


def drawn(seed: int, num_states: int, num_actions: int) -> tuple[Tensor, Tensor, Tensor]:
    """A policy, advantages of mean zero under it, and visitation."""
    rng = np.random.default_rng(seed)
    old = torch.from_numpy(rng.dirichlet(np.full(num_actions, rng.choice([0.1, 1.0, 10.0])), size=num_states))
    value = torch.from_numpy(rng.normal(size=(num_states, num_actions)))
    return old, value - (old * value).sum(-1, keepdim=True), torch.from_numpy(rng.exponential(size=num_states))


# The divergence


@pytest.mark.parametrize("power", range(2, 41))
def test_the_divergence_of_neighbours_is_exact(power: int) -> None:
    """KL((1/2, 1/2) || (1/2 + h, 1/2 - h)) = -log(1 - 4 h^2) / 2; h is a power of two, so nothing is rounded."""
    h = 2.0**-power
    kl = kl_divergence(rows([0.5, 0.5]), rows([0.5 + h, 0.5 - h]))
    assert kl.item() == pytest.approx(-math.log1p(-4 * h**2) / 2, rel=1e-13, abs=0)


def test_the_divergence_of_strangers() -> None:
    old = rows([1.0, 0.0], [0.5, 0.5], [1e-300, 1.0], [0.2, 0.8], [1.0, 0.0])
    new = rows([0.25, 0.75], [1.0, 0.0], [0.5, 0.5], [0.2, 0.8], [1.0, 0.0])
    expected = [math.log(4), math.inf, math.log(2), 0, 0]
    torch.testing.assert_close(kl_divergence(old, new), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("steps", [-5, 5])
def test_the_divergence_is_exact_where_the_series_ends(steps: int) -> None:
    """With new / old = 1 +- 0.0098, against fifty digits; all numbers are short in binary, so nothing is rounded."""
    old, h = [1 / 64, 63 / 64], steps * 2.0**-15
    new = [old[0] + h, old[1] - h]
    with localcontext(prec=50):
        exact = sum(Decimal(p) * (Decimal(p) / Decimal(q)).ln() for p, q in zip(old, new, strict=True))
    assert kl_divergence(rows(old), rows(new)).item() == pytest.approx(float(exact), rel=1e-14, abs=0)


@pytest.mark.parametrize("never", [0.0, 5e-324, 1e-310, 1e-300])
def test_the_divergence_of_what_hardly_differs_is_zero(never: float) -> None:
    assert kl_divergence(rows([1.0, never]), rows([1.0, never])).item() == 0
    assert kl_divergence(rows([1.0, 5e-324]), rows([1.0, 0.0])).item() == 0


# The penalised maximum in closed form


@pytest.mark.parametrize("coefficient", [1e-9, 1e-3, 1.0, 1e3, 1e6, 1e9, 1e12])
@pytest.mark.parametrize("unit", [1e-200, 1.0, 1e200])
def test_two_actions_in_closed_form(coefficient: float, unit: float) -> None:
    """old = (1/2, 1/2), A = (1, -1): pi = (1 + d, 1 - d) / 2 with 4 d / (1 - d^2) = 4 / C. The unit has no say."""
    table = penalised_argmax(rows([0.5, 0.5]), rows([unit, -unit]), ONCE, coefficient * unit)
    d = 2 / (coefficient + math.sqrt(coefficient**2 + 4))
    worse = coefficient * d / 2 / (1 + d)  # (1 - d) / 2
    assert (table[0, 0] - 0.5).item() == pytest.approx(d / 2, rel=1e-9, abs=1e-15)
    assert table[0, 1].item() == pytest.approx(worse, rel=1e-7, abs=0)


@pytest.mark.parametrize("never", [0.0, 5e-324, 1e-300, 1e-250, 1e-190, 1e-100])
@pytest.mark.parametrize("coefficient", [1e-6, 0.3, 0.999])
@pytest.mark.parametrize("num_states", [1, 4])
def test_a_best_action_that_was_never_taken(never: float, coefficient: float, num_states: int) -> None:
    """old = (1, 0), A = (0, 1) in S states: to maximise S m + C log(1 - m) is m = 1 - C / S."""
    old, advantage = rows(*[[1.0, never]] * num_states), rows(*[[0.0, 1.0]] * num_states)
    table = penalised_argmax(old, advantage, ONCE.expand(num_states), coefficient * num_states)
    torch.testing.assert_close(table, rows(*[[coefficient, 1 - coefficient]] * num_states))


@pytest.mark.parametrize("unit", [1e-200, 1.0, 1e200])
def test_a_third_action_that_was_never_taken(unit: float) -> None:
    """old = (1/2, 1/2, 0), A = (-1, 1, 2): pi = lambda old / (nu - A) on the first two, nu = 2 and lambda = C."""
    table = penalised_argmax(rows([0.5, 0.5, 0.0]), unit * rows([-1.0, 1.0, 2.0]), ONCE, 0.3 * unit)
    torch.testing.assert_close(table, rows([0.05, 0.15, 0.8]))


def test_actions_that_were_hardly_ever_taken() -> None:
    """As p goes to zero, lambda = C and nu = C + A(likeliest): pi / old = C / (C + A(likeliest) - A)."""
    coefficient, old, advantage = 1e3, rows([1.0, 1e-29, 1e-30]), rows([0.3, 0.0, 1.0])
    table = penalised_argmax(old, advantage, ONCE, coefficient)
    torch.testing.assert_close(table / old, coefficient / (coefficient + 0.3 - advantage), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("old", "advantage", "visitation", "coefficient"),
    [
        ([1.0, 0.0], [0.0, 1.0], 1.0, 1.0),  # the first step off costs what it gains
        ([1.0, 0.0], [1.0, 0.0], 1.0, 0.1),  # already the best
        ([0.5, 0.5], [2.0, 2.0], 1.0, 0.1),
        ([0.5, 0.5], [0.0, 1.0], 0.0, 0.1),  # never visited
    ],
)
def test_where_nothing_is_to_be_gained_the_policy_stays(
    old: list[float], advantage: list[float], visitation: float, coefficient: float
) -> None:
    assert torch.equal(penalised_argmax(rows(old), rows(advantage), visitation * ONCE, coefficient), rows(old))


@pytest.mark.parametrize("coefficient", [1e14, 1e15, 1e16, 1e17])
def test_steps_smaller_than_rounding_do_no_harm(coefficient: float) -> None:
    """In the second state nothing is to be gained."""
    for seed in range(20):
        old, advantage, visitation = drawn(seed, 2, 3)
        advantage[1] = 0
        parts = old, advantage, visitation, coefficient
        assert objective(*parts, penalised_argmax(*parts)) >= 0


# The penalised maximum in general


@pytest.mark.parametrize("coefficient", [1e-4, 0.01, 0.3, 1.0, 10.0, 1e3])
@pytest.mark.parametrize("seed", range(5))
def test_the_conditions_of_karush_kuhn_and_tucker(seed: int, coefficient: float) -> None:
    """With multipliers lambda_s >= 0 and nu_s in every state: A = nu - lambda old / pi, and sum_s rho_s lambda_s = C.

    Where lambda_s > 0, the KL is the largest. The objective is concave, so they hold at its maximum alone.
    """
    old, advantage, visitation = drawn(seed, 3, 3)
    table = penalised_argmax(old, advantage, visitation, coefficient)
    price = old / table
    order = price.argsort(-1)
    (low, middle, high), (best, fair, worst) = price.gather(-1, order).T, advantage.gather(-1, order).T
    multiplier = (best - worst) / (high - low)
    torch.testing.assert_close(fair, best - multiplier * (middle - low), rtol=1e-6, atol=1e-8)
    assert (visitation @ multiplier).item() == pytest.approx(coefficient, rel=1e-6)
    kl = kl_divergence(old, table)
    assert kl.min().item() == pytest.approx(kl.max().item(), rel=1e-6)


@pytest.mark.parametrize("coefficient", [0.05, 0.5, 5.0])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_a_grid(seed: int, coefficient: float) -> None:
    """Three actions: all pairs of 201 probabilities."""
    old, advantage, visitation = drawn(seed, 1, 3)
    share = torch.linspace(1e-6, 1 - 1e-6, 201, dtype=torch.float64)
    first, second = torch.meshgrid(share, share, indexing="ij")
    grid = torch.stack([first, (1 - first) * second, (1 - first) * (1 - second)], -1).flatten(0, 1)
    table = penalised_argmax(old, advantage, visitation, coefficient)
    best = (visitation * ((grid - old) @ advantage[0]) - coefficient * kl_divergence(old.expand_as(grid), grid)).max()
    reached = objective(old, advantage, visitation, coefficient, table)
    assert best <= reached + 1e-12
    assert best.item() == pytest.approx(reached, abs=1e-3)


def test_a_small_coefficient_makes_it_greedy() -> None:
    old, advantage, visitation = drawn(0, 4, 3)
    table = penalised_argmax(old, advantage, visitation, 1e-9)
    best = torch.nn.functional.one_hot(advantage.argmax(-1), 3).double()
    torch.testing.assert_close(table, best, rtol=0, atol=1e-6)


@pytest.mark.parametrize("coefficient", [1e4, 1e6, 1e8])
def test_under_a_large_coefficient_all_is_quadratic(coefficient: float) -> None:
    """The best radius is (sum_s rho_s sigma_s)^2 / 2 C^2, sigma the deviation of A; the penalty is half the gain."""
    old, advantage, visitation = drawn(1, 4, 3)
    table = penalised_argmax(old, advantage, visitation, coefficient)
    deviation = (old * advantage.square()).sum(-1).sqrt()
    radius = (visitation @ deviation).item() ** 2 / (2 * coefficient**2)
    torch.testing.assert_close(kl_divergence(old, table), torch.full((4,), radius).double(), rtol=0.01, atol=0)
    assert coefficient * radius == pytest.approx(gain(old, advantage, visitation, table) / 2, rel=0.01)


def test_it_is_found_in_few_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bisection alone would need three times as many."""
    monkeypatch.setattr(kl_ball, "MAX_EVALUATIONS", 20)
    for exponent in range(-9, 10, 3):
        for parts in (*(drawn(seed, 3, 3) for seed in range(5)), (rows([1.0, 0.0]), rows([0.0, 1e10]), ONCE)):
            assert objective(*parts, 10.0**exponent, penalised_argmax(*parts, 10.0**exponent)) > 0


def test_the_search_begins_at_the_quadratic_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under so large a coefficient there is nothing left to search for."""
    monkeypatch.setattr(kl_ball, "MAX_EVALUATIONS", 1)
    parts = *drawn(1, 4, 3), 1e11
    assert objective(*parts, penalised_argmax(*parts)) > 0


def test_where_newton_leads_astray_bisection_finds_the_root() -> None:
    """At a jump, with an elasticity so small that every Newton step leaves the bracket."""
    low, start, high = torch.tensor([[1e-190], [0.9], [1.0]], dtype=torch.float64)
    root = kl_ball._root(
        lambda x: (torch.where(x < 0.3, 2.0, 0.5), -1e-9 * x), torch.ones(1).double(), start, low, high
    )
    assert root.item() == pytest.approx(0.3, rel=1e-14)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, float]:
    """Some actions may have no probability."""
    seed = draw(st.integers(0, 1000))
    old, advantage, visitation = drawn(seed, draw(st.integers(1, 6)), draw(st.integers(1, 4)))
    if draw(st.booleans()):
        chance = torch.from_numpy(np.random.default_rng(seed).random(old.shape))
        old[chance < 0.3] = draw(st.sampled_from([0.0, 1e-300, 1e-30]))
        old[old.sum(-1) < 1e-3, 0] = 1.0
        old /= old.sum(-1, keepdim=True)
    return old, advantage, visitation, 10.0 ** draw(st.floats(-12, 6))


@settings(derandomize=True, max_examples=100, deadline=None)
@given(problems(), st.integers(0, 1000))
def test_no_rival_does_better(problem: tuple[Tensor, Tensor, Tensor, float], seed: int) -> None:
    """Rivals far away and near by; the objective is concave, so none near by means none at all."""
    old, _, visitation, _ = problem
    table, rng = penalised_argmax(*problem), np.random.default_rng(seed)
    assert (table >= 0).all()
    torch.testing.assert_close(table.sum(-1), torch.ones(len(table), dtype=torch.float64), rtol=0, atol=1e-14)
    reached = objective(*problem, table)
    assert reached >= 0
    bound = reached + 1e-9 * reached + 1e-24 * visitation.sum().item()
    for size in (1.0, 0.1, 1e-2, 1e-3):
        for other in (old, drawn(seed, *old.shape)[0]):
            assert objective(*problem, table.lerp(other, size)) <= bound
        rival = table * (1 + size * torch.from_numpy(rng.uniform(-1, 1, size=table.shape)))
        assert objective(*problem, rival / rival.sum(-1, keepdim=True)) <= bound
