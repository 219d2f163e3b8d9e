"""The exact step of monotone policy iteration: maximise sum_s rho_s E_pi A(s, .) - C max_s KL(old_s || pi_s).

This is algorithm 1 of the TRPO paper. Given a radius, the largest KL allowed, the states are independent problems. With
gap(a) = max A - A(a), the solution in a state is pi(a) = lambda old(a) / (t + gap(a)), where the multiplier lambda of
the constraint normalises pi, and t > 0 makes the KL equal to the radius. The gain of a state grows with the radius at
the rate lambda, which decreases, so the best radius solves sum_s rho_s lambda_s = C. The left sides of both equations
are decreasing, so one root finder solves them.

Actions that the old policy never takes do not contribute to the KL. If such an action is the best, the KL stays bounded
as t goes to zero; the rest of the radius is then used to move probability from all other actions to that one.

C may be so large that x = pi / old - 1 is tiny. KLs are therefore computed from x, and x from differences of gaps:
x(a) = (E_pi gap - gap(a)) / (t + gap(a)).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

NEVER = 1e-100  # smaller probabilities of the old policy count as zero
SMALLEST_T = 1e-190  # stands for t = 0; times the smallest probability, it is still a normal number
SMALLEST_RADIUS = 1e-200  # nats
SMALL = 0.01  # smaller |pi / old - 1| are computed without cancellation, and logarithms from a series
MAX_EVALUATIONS = 200  # bisection alone needs about 60


def kl_divergence(old: Tensor, new: Tensor) -> Tensor:
    """KL(old || new) (S,) in nats between tables (S, A), accurate even if they differ very little.

    It is computed as the sum over actions of old log(old / new) - old + new, whose terms are all >= 0.
    """
    taken = old >= torch.finfo(old.dtype).tiny
    divisor = old.where(taken, 1.0)
    terms = divisor * _excess((new - old) / divisor, new / divisor)
    return terms.where(taken, (new - old).clamp(min=0.0)).sum(-1)


def penalised_argmax(old: Tensor, advantage: Tensor, visitation: Tensor, coefficient: float) -> Tensor:
    """The table (S, A) that maximises sum_s rho_s E_pi A(s, .) - C max_s KL(old_s || pi_s).

    `old` and `advantage` are (S, A) float64, `visitation` is rho (S,) >= 0, `coefficient` is C > 0. The objective does
    not depend on states that are never visited; they move as far as the others.
    """
    taken = old >= NEVER
    best = advantage.max(-1, keepdim=True)
    gap = (best.values - advantage).where(taken, 0.0)
    scale = gap.amax(-1)
    movable = scale > 0  # in all other states, the old policy is already optimal
    scale, gap = scale[movable], gap[movable] / scale[movable, None]
    states = _States(old[movable].where(taken[movable], 0.0), gap.where(taken[movable], 1.0), best.indices[movable])
    weight = visitation[movable] * scale
    largest = (weight * states.mean_gap).sum() / coefficient  # since lambda <= gain / radius <= mean gap / radius
    smallest = torch.full_like(largest, SMALLEST_RADIUS)

    def rate(radius: Tensor) -> tuple[Tensor, Tensor]:
        """sum_s rho_s lambda_s, and its elasticity with respect to the radius."""
        solution = states.within(radius)
        multiplier = weight * solution.multiplier
        total = multiplier.sum()
        return total, -radius * (multiplier / total * solution.decay).sum()

    if rate(smallest)[0] <= coefficient:
        return old.clone()
    quadratic = ((weight * states.deviation).sum() / coefficient).square() / 2
    radius = _root(rate, largest.new_tensor(coefficient), quadratic, smallest, largest)
    table = old.clone()
    table[movable] = states.within(radius).table + old[movable].where(~taken[movable], 0.0)
    gain = (visitation @ ((table - old) * advantage).sum(-1)).item()
    # The best step may be smaller than the spacing of doubles, and its rounded version need not be an improvement.
    return table if gain > coefficient * kl_divergence(old, table).max() else old.clone()


@dataclass(frozen=True)
class _Solution:
    """The best policy within a radius around the old one."""

    table: Tensor  # (S, A)
    multiplier: Tensor  # lambda (S,)
    decay: Tensor  # -d log lambda / d radius (S,)


@dataclass(frozen=True)
class _Tilted:
    """pi(a) = old(a) / (t + gap(a)) / Z, at some t (S,)."""

    ratio: Tensor  # pi / old (S, A)
    normaliser: Tensor  # Z (S,)
    square: Tensor  # E_old x^2 (S,)
    kl: Tensor  # (S,)
    elasticity: Tensor  # d log KL / d log t (S,)


class _States:
    """The S states in which the old policy can be improved."""

    def __init__(self, old: Tensor, gap: Tensor, best: Tensor) -> None:
        """`old` (S, A); `gap` (S, A), relative to the largest, and 1 where `old` is zero; the `best` action (S, 1)."""
        self.old, self.gap, self.best = old, gap, best
        self.mean_gap = (old * gap).sum(-1)
        self.deviation = (old * (gap - self.mean_gap[:, None]).square()).sum(-1).sqrt()
        self.limit = _tilted(old, gap, torch.full_like(self.mean_gap, SMALLEST_T))

    def within(self, radius: Tensor) -> _Solution:
        """The tables with the smallest mean gap among those with KL(old || pi) <= `radius`, a scalar in nats."""
        t = torch.full_like(self.mean_gap, SMALLEST_T)
        bound = self.limit.kl > radius
        t[bound] = self._solve(self.old[bound], self.gap[bound], self.deviation[bound], radius)
        tilted = _tilted(self.old, self.gap, t)
        rest = (self.limit.kl - radius).clamp(max=0.0)  # the rest of the radius at t = 0 moves mass to the best action
        multiplier = rest.exp() / tilted.normaliser
        decay = torch.where(bound, 1 + 1 / tilted.square, 1.0)
        kept = self.old * tilted.ratio * rest.exp()[:, None]
        table = kept.scatter_add(-1, self.best, -rest.expm1()[:, None])
        return _Solution(table, multiplier, decay)

    @staticmethod
    def _solve(old: Tensor, gap: Tensor, deviation: Tensor, radius: Tensor) -> Tensor:
        """t (S,) at which KL(old || pi) is `radius`; under its quadratic model, that is deviation / sqrt(2 radius)."""

        def kl(t: Tensor) -> tuple[Tensor, Tensor]:
            tilted = _tilted(old, gap, t)
            return tilted.kl, tilted.elasticity

        low = torch.full_like(deviation, SMALLEST_T)
        high = radius.rsqrt().clamp(min=2.0).expand_as(low)  # |x| <= 1 / t, and so KL <= 1 / t^2 from t = 2 on
        return _root(kl, radius, deviation * (2 * radius).rsqrt(), low, high)


def _tilted(old: Tensor, gap: Tensor, t: Tensor) -> _Tilted:
    weight = 1 / (t[:, None] + gap)
    normaliser = (old * weight).sum(-1)
    ratio = weight / normaliser[:, None]
    x = ((old * ratio * gap).sum(-1, keepdim=True) - gap) * weight
    x = torch.where((ratio - 1).abs() < SMALL, x, ratio - 1)
    square = (old * x * x).sum(-1)
    kl = (old * _excess(x, ratio)).sum(-1)
    return _Tilted(ratio, normaliser, square, kl, -(t * normaliser) * square / kl)


def _excess(x: Tensor, ratio: Tensor) -> Tensor:
    """x - log(ratio) >= 0 for `ratio` = 1 + x, exact up to rounding; infinite where `ratio` is 0.

    log(1 + x) is 2 artanh(r) with r = x / (2 + x), whose series in r^2 is used for small x.
    """
    r = x / (2 + x)
    y = r * r
    series = r * (x - y * (2 / 3 + y * (2 / 5 + y * (2 / 7 + y * (2 / 9)))))
    return torch.where(x.abs() < SMALL, series, x - ratio.log())


def _root(
    function: Callable[[Tensor], tuple[Tensor, Tensor]], target: Tensor, start: Tensor, low: Tensor, high: Tensor
) -> Tensor:
    """Where a positive decreasing function equals `target`, elementwise, by Newton steps in logarithms or bisection.

    `function` returns the value and its elasticity d log value / d log x; `low` and `high` enclose the root. Raises
    `ArithmeticError` if the iteration does not converge.
    """
    x, done = start.clamp(low, high), torch.zeros_like(start, dtype=torch.bool)
    for _ in range(MAX_EVALUATIONS):
        value, elasticity = function(x)
        error = (value / target).log()
        low, high = torch.where(error > 0, x, low), torch.where(error < 0, x, high)
        newton = x * (-error / elasticity).exp()
        hit = (error.abs() < 1e-14) | (high - low < 1e-15 * high)
        close = (newton / x - 1).abs() < 1e-8  # the error after this Newton step is about its square
        inside = (newton > low) & (newton < high)
        step = torch.where(close | inside, newton, low.sqrt() * high.sqrt())
        x = torch.where(done | hit, x, step)
        done = done | hit | close
        if done.all():
            return x
    raise ArithmeticError(f"the root finder did not converge in {MAX_EVALUATIONS} evaluations")
