"""The step of monotone policy iteration, solved exactly: maximise sum_s rho_s E_pi A(s, .) - C max_s KL(old_s || pi_s).

For a given radius, the largest KL that is allowed, every state is a problem of its own. With gap(a) = max A - A(a),
its solution is pi(a) = lambda old(a) / (t + gap(a)): lambda, the multiplier of the constraint, makes that a
distribution, and t > 0 makes its KL equal to the radius. What a state gains grows with the radius at the rate lambda,
which falls, so the best radius is where sum_s rho_s lambda_s = C. The left sides of both equations are decreasing: one
root finder solves them.

An action that the old policy never takes has no part in the KL. If it is the best one, the KL stays below some bound as
t goes to zero; what is left of the radius then pays for moving a share of all probability to that action.

C may be so large that x = pi / old - 1 is tiny. KLs are therefore computed from x, and x from differences of gaps:
x(a) = (E_pi gap - gap(a)) / (t + gap(a)).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

NEVER = 1e-100  # a smaller probability of the old policy counts as zero
SMALLEST_T = 1e-190  # stands for t = 0: t times the smallest probability is still a normal number
SMALLEST_RADIUS = 1e-200  # nats
SMALL = 0.01  # below it, |pi / old - 1| is computed without subtracting from one, and its logarithm from a series
MAX_EVALUATIONS = 200  # bisection alone would need some 60


def kl_divergence(old: Tensor, new: Tensor) -> Tensor:
    """KL(old || new) (S,) in nats, of tables (S, A); accurate however little they differ.

    It is the sum of old log(old / new) - old + new over the actions, in which every term is >= 0.
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
    movable = scale > 0  # elsewhere nothing is better than what the old policy does
    scale, gap = scale[movable], gap[movable] / scale[movable, None]
    states = _States(old[movable].where(taken[movable], 0.0), gap.where(taken[movable], 1.0), best.indices[movable])
    weight = visitation[movable] * scale
    largest = (weight * states.mean_gap).sum() / coefficient  # since lambda <= gain / radius <= mean gap / radius
    smallest = torch.full_like(largest, SMALLEST_RADIUS)

    def rate(radius: Tensor) -> tuple[Tensor, Tensor]:
        """sum_s rho_s lambda_s, and its elasticity in the radius."""
        solution = states.within(radius)
        multiplier = weight * solution.multiplier
        total = multiplier.sum()
        return total, -radius * (multiplier / total * solution.decay).sum()

    if largest <= smallest or rate(smallest)[0] <= coefficient:
        return old.clone()
    quadratic = ((weight * states.deviation).sum() / coefficient).square() / 2
    radius = _root(rate, largest.new_tensor(coefficient), quadratic, smallest, largest)
    table = old.clone()
    table[movable] = states.within(radius).table + old[movable].where(~taken[movable], 0.0)
    gain = (visitation @ ((table - old) * advantage).sum(-1)).item()
    # The best step may be smaller than the spacing of doubles; what is left of it after rounding need not be worth it.
    return table if gain > coefficient * kl_divergence(old, table).max() else old.clone()


@dataclass(frozen=True)
class _Solution:
    """The best tables within a radius of the old ones."""

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
    """S states in which something can be gained."""

    def __init__(self, old: Tensor, gap: Tensor, best: Tensor) -> None:
        """`old` (S, A); `gap` (S, A) in units of the largest, and 1 where `old` is zero; `best` action (S, 1)."""
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
        rest = (self.limit.kl - radius).clamp(max=0.0)  # what the radius leaves at t = 0 moves mass to the best action
        multiplier = rest.exp() / tilted.normaliser
        decay = torch.where(bound, 1 + 1 / tilted.square, 1.0)
        kept = self.old * tilted.ratio * rest.exp()[:, None]
        table = kept.scatter_add(-1, self.best, -rest.expm1()[:, None])
        return _Solution(table, multiplier, decay)

    @staticmethod
    def _solve(old: Tensor, gap: Tensor, deviation: Tensor, radius: Tensor) -> Tensor:
        """t (S,) at which KL(old || pi) is `radius`: the quadratic model of the KL says deviation / sqrt(2 radius)."""

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
    """x - log(ratio) >= 0 for `ratio` = 1 + x, exact to rounding; infinite where `ratio` is 0.

    With r = x / (2 + x), log(1 + x) is 2 artanh(r): its series in r^2 is used where x is small.
    """
    r = x / (2 + x)
    y = r * r
    series = r * (x - y * (2 / 3 + y * (2 / 5 + y * (2 / 7 + y * (2 / 9)))))
    return torch.where(x.abs() < SMALL, series, x - ratio.log())


def _root(
    function: Callable[[Tensor], tuple[Tensor, Tensor]], target: Tensor, start: Tensor, low: Tensor, high: Tensor
) -> Tensor:
    """Where a positive decreasing function is `target`, elementwise: Newton on log value by log x, or else bisection.

    `function` gives value and elasticity, d log value / d log x; `low` and `high` enclose the root. Raises
    `ArithmeticError` if it is not found.
    """
    x, done = start.clamp(low, high), torch.zeros_like(start, dtype=torch.bool)
    for _ in range(MAX_EVALUATIONS):
        value, elasticity = function(x)
        error = (value / target).log()
        low, high = torch.where(error > 0, x, low), torch.where(error < 0, x, high)
        newton = x * (-error / elasticity).exp()
        hit = (error.abs() < 1e-14) | (high - low < 1e-15 * high)
        close = (newton / x - 1).abs() < 1e-8  # and Newton's error after the step is the square of that
        inside = (newton > low) & (newton < high)
        step = torch.where(close | inside, newton, low.sqrt() * high.sqrt())
        x = torch.where(done | hit, x, step)
        done = done | hit | close
        if done.all():
            return x
    raise ArithmeticError(f"no root of a decreasing function after {MAX_EVALUATIONS} evaluations")
