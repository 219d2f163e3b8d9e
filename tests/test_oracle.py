"""Sampled estimators against the exact ones, on a small random process: the oracle that sampled tasks do not have.

The exact objective, gradient and Fisher matrix come from `sampler=exact`; those of a single path and of vines have to
converge to them as the sample grows, with an error that falls as 1 / sqrt(n).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import probes  # noqa: F401  registers the probe environments
import pytest
import torch
from conftest import built, thinned
from torch import Tensor

from trpo_cli.algos.policy_gradient import PolicyGradient
from trpo_cli.data import Batch
from trpo_cli.exact.finite_mdp import Values
from trpo_cli.models.critics import ZeroCritic
from trpo_cli.parts import Parts
from trpo_cli.samplers.vine import Vine
from trpo_cli.trust_region.fisher import empirical, gauss_newton

STATES, ACTIONS = 5, 3
PROCESS = (
    "env=RandomMDP-v0",
    f"env.kwargs={{num_states:{STATES},num_actions:{ACTIONS},branching:2,termination:0.2}}",
    "algo=trpo",
    "policy=tabular",
    "algo.gamma=0.9",
    "algo.normalize_advantage=false",
    "algo.discount_states=true",
)
BRANCH = 40  # steps, of which few are left at a termination of 0.2: 0.72^40 = 2e-6


class OracleCritic(ZeroCritic):
    """V itself, so that advantages have no bias."""

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.values = values

    def forward(self, observation: Tensor) -> Tensor:
        return self.values.value.to(observation.dtype)[observation.argmax(-1)]


class Found(NamedTuple):
    """What an estimator says: at theta_old, and of the surrogate at another theta too."""

    surrogate: Tensor
    gradient: Tensor
    fisher: Tensor
    empirical_fisher: Tensor


def policy_of(parts: Parts) -> Tensor:
    """Give the policy the same random table everywhere; returns another theta, not far from it."""
    generator = torch.Generator().manual_seed(3)
    logits, other = torch.randn(2, STATES, ACTIONS, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        parts.policy.logits.copy_(logits)
    return (logits + 0.3 * other).flatten()


def found(parts: Parts, batch: Batch, other: Tensor) -> Found:
    algorithm: Any = parts.algorithm
    problem = algorithm.problem(batch)
    geometry = algorithm.geometry(*batch.states, batch.weight, batch.old_log_prob, batch.log_q)
    eye = torch.eye(STATES * ACTIONS, dtype=torch.float64)
    dense = [torch.stack([product(v) for v in eye]) for product in (gauss_newton(geometry), empirical(geometry))]
    difference = problem.evaluate(other).objective - problem.start
    return Found(difference.double(), problem.gradient(), *dense)


def exact() -> tuple[Found, Values]:
    parts = built(*PROCESS, "sampler=exact")
    other = policy_of(parts)
    sample: Any = parts.sampler
    (evaluated,) = sample.collect(parts.policy)
    algorithm: Any = parts.algorithm
    return found(parts, algorithm.estimate([evaluated])[0], other), evaluated.values


TRUTH, VALUES = exact()


def samples(count: int, *overrides: str, critic: bool = False) -> list[Found]:
    """`count` independent estimates by a sampler."""
    parts = built(*PROCESS, *overrides)
    other = policy_of(parts)
    algorithm: Any = parts.algorithm
    if critic:
        algorithm.critic = OracleCritic(VALUES)
    sampler: Any = parts.sampler
    return [found(parts, algorithm.estimate(sampler.collect(parts.policy))[0], other) for _ in range(count)]


def error(estimates: list[Found], name: str) -> float:
    """The root of the mean squared error, against the oracle."""
    truth = getattr(TRUTH, name)
    return torch.stack([(getattr(one, name) - truth).square().sum() for one in estimates]).mean().sqrt().item()


def spread(estimates: list[Found], name: str) -> float:
    """The total variance of an estimate."""
    return torch.stack([getattr(one, name).flatten() for one in estimates]).var(0).sum().item()


SINGLE_PATH = ("sampler=single_path", "algo/advantage=monte_carlo", "sampler.num_envs=4")


def single_path(steps: int) -> tuple[str, ...]:
    return (*SINGLE_PATH, f"sampler.steps_per_iteration={steps}")


def vine(states: int, actions: int | str, *overrides: str) -> tuple[str, ...]:
    tries = ACTIONS if actions == "all" else int(actions)
    return (
        "sampler=vine",
        "sampler.num_envs=16",
        f"sampler.num_states={states}",
        f"sampler.actions_per_state={actions}",
        f"sampler.branch_length={BRANCH}",
        f"sampler.steps_per_iteration={(states * tries + 16) * BRANCH + 16 * states}",
        *overrides,
    )


FULL, IMPORTANCE = "algo/surrogate=full_action_sum", "algo/surrogate=importance_sampled"
ESTIMATORS = {  # at n, and at 16 n
    "vine, self-normalised": (vine(12, 4), vine(192, 12)),
    "vine, importance sampled": (vine(12, 4, IMPORTANCE), vine(192, 4, IMPORTANCE)),
    "single path": (single_path(200), single_path(3200)),
    "vine, full action sum": (vine(12, "all", FULL), vine(192, "all", FULL)),
}


@pytest.mark.parametrize("estimator", thinned(2, ESTIMATORS))
def test_the_error_falls_with_the_square_root_of_the_sample(estimator: str) -> None:
    """Sixteen times the states, a quarter of the error or less, within a wide margin: of the surrogate away from
    theta_old, of its gradient, and of both Fisher matrices."""
    small, large = ESTIMATORS[estimator]
    critic = estimator in ("single path", "vine, importance sampled")
    few, many = samples(16, *small, critic=critic), samples(6, *large, critic=critic)
    for name in Found._fields:
        if "full action sum" in estimator and name == "empirical_fisher":
            assert error(many, name) == pytest.approx(error(many, "fisher"), rel=1e-6)  # over all actions, it is F
        assert 2 < error(few, name) / error(many, name) < 9, name
    for name in Found._fields:
        mean = torch.stack([getattr(one, name) for one in many]).mean(0)
        assert (mean - getattr(TRUTH, name)).norm() < 0.2 * getattr(TRUTH, name).norm(), name


def test_vine_has_less_variance_than_a_single_path() -> None:
    """At an equal number of Q-values, without a critic: 240 steps, or 80 states with 3 actions each."""
    path = samples(20, *single_path(240), "critic=zero")
    vines = samples(20, *vine(80, 3, "sampler.proposal=policy"))
    for name in ("surrogate", "gradient"):
        assert spread(vines, name) < 0.75 * spread(path, name), name


@pytest.mark.parametrize("common", [True, False])
def test_common_random_numbers_lower_the_variance(common: bool) -> None:
    """The luck of the coin is the same for every action of a state, so that it cancels: entirely, on this process."""
    parts = built(
        *PROCESS[2:],
        "env=gym",
        "env.id=Probe/Coin-v0",
        "sampler=vine",
        "sampler.num_envs=8",
        "sampler.num_states=40",
        "sampler.actions_per_state=all",
        "sampler.branch_length=3",
        "sampler.steps_per_iteration=400",
        f"sampler.common_random_numbers={common}",
    )
    algorithm, sampler = parts.algorithm, parts.sampler
    assert isinstance(algorithm, PolicyGradient)
    assert isinstance(sampler, Vine)
    advantage = algorithm.estimate(sampler.collect(parts.policy))[0].advantage
    better = advantage[:, 1] - advantage[:, 0]
    if common:
        torch.testing.assert_close(better, torch.ones_like(better))
    else:
        assert better.std() > 4
        assert abs(better.mean() - 1) < 4
