"""Tabular policies, and the two exact policy iterations against closed forms, a grid and their bounds."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
import torch
from conftest import NO_MEMORY, built, vectors
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trpo_cli.algos.tabular import Improve, conservative, monotone
from trpo_cli.envs.random_mdp import RandomMDP
from trpo_cli.errors import ConfigError
from trpo_cli.exact.finite_mdp import FiniteMDP
from trpo_cli.models.distributions import Categorical, DiagonalGaussian
from trpo_cli.models.linearisation import linearise
from trpo_cli.models.policies.tabular import TabularPolicy

IMPROVEMENTS = pytest.mark.parametrize("improve", [conservative, monotone])


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def uniform(mdp: FiniteMDP) -> Tensor:
    return torch.full_like(mdp.reward, 1 / mdp.reward.shape[1])


def random_table(rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(rng.dirichlet(np.full(shape[1], rng.choice([0.1, 1.0, 10.0])), size=shape[0]))


@st.composite
def problems(draw: st.DrawFn) -> tuple[FiniteMDP, Tensor, float]:
    """A process, a policy of which some actions may have no probability, and gamma."""
    num_states = draw(st.integers(1, 6))
    env = RandomMDP(
        num_states=num_states,
        num_actions=draw(st.integers(1, 4)),
        branching=draw(st.integers(1, num_states)),
        termination=draw(st.sampled_from([0.0, 0.1, 0.9])),
        mdp_seed=draw(st.integers(0, 1000)),
    )
    mdp, rng = FiniteMDP.from_env(env), np.random.default_rng(draw(st.integers(0, 1000)))
    table = random_table(rng, tuple(mdp.reward.shape))
    if draw(st.booleans()):
        table[torch.from_numpy(rng.random(mdp.reward.shape) < 0.3)] = draw(st.sampled_from([0.0, 1e-300, 1e-30]))
        table[table.sum(-1) < 1e-3, 0] = 1.0
        table /= table.sum(-1, keepdim=True)
    return mdp, table, draw(st.sampled_from([0.01, 0.2, 0.9, 0.999]))


# The two improvements

ONE_STATE = FiniteMDP(
    pair=torch.tensor([0, 1]),
    successor=torch.tensor([0, 0]),
    probability=torch.ones(2, dtype=torch.float64),
    reward=rows([0.0, 1.0]),
    start=torch.ones(1, dtype=torch.float64),
)
"""It goes on forever and pays 0 or 1: with gamma = 1/2 and uniform actions, A = (-1/2, 1/2) and rho = 2."""


def test_conservative_by_hand() -> None:
    """alpha = bbA (1 - gamma)^2 / (4 epsilon gamma) = 1 * 0.25 / 1; the penalty is 2 epsilon gamma alpha^2 / 0.25."""
    values = ONE_STATE.evaluate(uniform(ONE_STATE), 0.5)
    table, penalty = conservative(values, uniform(ONE_STATE), 0.5)
    torch.testing.assert_close(table, rows([0.375, 0.625]))
    assert penalty == pytest.approx(0.125)
    assert values.surrogate(table) - values.eta == pytest.approx(0.25)


def test_monotone_by_hand() -> None:
    """C = 4 * 0.5 * 0.5 / 0.25 = 4. With pi = (1 - d, 1 + d) / 2, L gains d and the KL is -log(1 - d^2) / 2.

    The best d has d^2 + 4 d = 1.
    """
    values = ONE_STATE.evaluate(uniform(ONE_STATE), 0.5)
    table, penalty = monotone(values, uniform(ONE_STATE), 0.5)
    d = math.sqrt(5) - 2
    torch.testing.assert_close(table, rows([(1 - d) / 2, (1 + d) / 2]))
    assert penalty == pytest.approx(-2 * math.log1p(-(d**2)))
    assert values.surrogate(table) - values.eta == pytest.approx(d)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(problems())
def test_alpha_is_the_best(problem: tuple[FiniteMDP, Tensor, float]) -> None:
    """Of the bound (19) over [0, 1], on a grid."""
    mdp, old, gamma = problem
    values = mdp.evaluate(old, gamma)
    table, penalty = conservative(values, old, gamma)
    best = values.advantage.max(-1).values
    alpha = torch.linspace(0, 1, 101, dtype=torch.float64)
    bound = alpha * (values.visitation @ best) - 2 * best.abs().max() * gamma * alpha**2 / (1 - gamma) ** 2
    rounding = 1e-12 * (1 + values.action_value.abs().max().item()) / (1 - gamma)
    assert values.surrogate(table) - values.eta - penalty >= bound.max().item() - rounding


@IMPROVEMENTS
@settings(derandomize=True, max_examples=60, deadline=None)
@given(problem=problems())
def test_the_return_never_falls(improve: Improve, problem: tuple[FiniteMDP, Tensor, float]) -> None:
    """Nor is it ever below the bound, nor the bound below the old return."""
    mdp, table, gamma = problem
    values = mdp.evaluate(table, gamma)
    for _ in range(5):
        improved, penalty = improve(values, table, gamma)
        bound = values.surrogate(improved) - penalty
        before, table, values = values.eta, improved, mdp.evaluate(improved, gamma)
        rounding = 1e-13 * (1 + values.action_value.abs().max().item()) / (1 - gamma)
        assert penalty >= 0
        assert before - rounding <= bound <= values.eta + rounding


@IMPROVEMENTS
def test_small_gamma_reaches_the_optimum(improve: Improve) -> None:
    """The bounds are then loose enough to learn by: within 1e-3 of what greedy policy iteration finds."""
    gamma, mdp = 0.1, FiniteMDP.from_env(RandomMDP(num_states=6, num_actions=3))
    optimal, table = uniform(mdp), uniform(mdp)
    for _ in range(20):
        best = mdp.evaluate(optimal, gamma).action_value.argmax(-1)
        optimal = torch.nn.functional.one_hot(best, 3).double()
    for _ in range(100):
        table = improve(mdp.evaluate(table, gamma), table, gamma).table
    assert mdp.evaluate(table, gamma).eta == pytest.approx(mdp.evaluate(optimal, gamma).eta, abs=1e-3)


@IMPROVEMENTS
def test_an_optimal_policy_stays(improve: Improve) -> None:
    """All rewards are equal, so no action is better than another."""
    mdp = FiniteMDP.from_env(RandomMDP(num_states=3, branching=2, termination=0.0))
    still = FiniteMDP(mdp.pair, mdp.successor, mdp.probability, torch.zeros_like(mdp.reward), mdp.start)
    table, penalty = improve(still.evaluate(uniform(mdp), 0.9), uniform(mdp), 0.9)
    assert torch.equal(table, uniform(mdp))
    assert penalty == 0


# The policy


def test_the_policy_is_the_row_of_its_state() -> None:
    policy = TabularPolicy(vectors(3, 3), Categorical([2]))
    torch.testing.assert_close(policy.table(), torch.full((3, 2), 0.5, dtype=torch.float64))
    table = rows([0.1, 0.9], [0.5, 0.5], [0.0, 1.0])
    policy.set_table(table)
    torch.testing.assert_close(policy.table(), table, rtol=1e-14, atol=1e-300)
    assert policy.logits.isfinite().all()
    observation = torch.eye(3)[[2, 0, 0]]
    torch.testing.assert_close(policy(observation).softmax(-1), table[[2, 0, 0]])
    actions = policy.actor()(observation.numpy(), NO_MEMORY, np.full((3, 1), 0.05, dtype=np.float32))[0]
    assert actions.tolist() == [[1], [0], [0]]


def test_its_linearisation_is_that_of_autograd() -> None:
    policy, generator = TabularPolicy(vectors(4, 4), Categorical([3])), torch.Generator().manual_seed(0)
    torch.nn.init.normal_(policy.logits, generator=generator)
    observation = torch.eye(4)[[1, 3, 3, 0, 1]]
    v = torch.randn(12, generator=generator, dtype=torch.float64)
    u = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    ours, reference = policy.linearise(observation), linearise(policy, observation)
    torch.testing.assert_close(ours.output, reference.output)
    torch.testing.assert_close(ours.jvp(v), reference.jvp(v))
    torch.testing.assert_close(ours.vjp(u), reference.vjp(u))


@pytest.mark.parametrize("table", [[0.5, 0.6], [-0.5, 1.5], [math.nan, 1.0]])
def test_what_is_no_distribution_is_no_policy(table: list[float]) -> None:
    with pytest.raises(ValueError, match="no distribution"):
        TabularPolicy(vectors(1, 1), Categorical([2])).set_table(rows(table))


def test_spaces_without_a_table_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"tabular .* Discrete observation space"):
        TabularPolicy(vectors(4), Categorical([2]))
    for distribution in (DiagonalGaussian(2), Categorical([2, 3])):
        with pytest.raises(ConfigError, match=r"tabular .* Discrete action space"):
            TabularPolicy(vectors(4, 4), distribution)


# The algorithm


@pytest.mark.parametrize("algo", ["cpi", "monotone_pi"])
def test_iterations_log_both_sides_of_the_bound(algo: str) -> None:
    mdp = FiniteMDP.from_env(gymnasium.make("FrozenLake-v1"))
    parts = built(f"algo={algo}", "env=FrozenLake-v1")
    policy, algorithm, eta = parts.policy, parts.algorithm, mdp.evaluate(uniform(mdp), 0.9).eta
    assert isinstance(policy, TabularPolicy)
    keys = None
    for _ in range(20):
        old = policy.table()
        row = algorithm.iterate().metrics
        values, new = mdp.evaluate(old, 0.9), policy.table()
        assert keys in (None, row.keys())
        keys = row.keys()
        assert row["exact/return"] == pytest.approx(mdp.evaluate(new, 0.9).eta, rel=1e-14)
        assert row["exact/true_change"] == pytest.approx(row["exact/return"] - eta, abs=1e-15)
        assert row["exact/surrogate"] == pytest.approx(values.surrogate(new), rel=1e-14)
        assert row["exact/lower_bound"] == pytest.approx(row["exact/surrogate"] - row["exact/penalty"], rel=1e-14)
        assert eta < row["exact/lower_bound"] < row["exact/return"]
        weight = values.visitation / values.visitation.sum()
        reference = policy.distribution
        kl = reference.kl(old.log(), new.log())
        assert row["policy/max_kl"] == pytest.approx(kl.max().item(), rel=1e-6)
        assert row["policy/kl"] == pytest.approx((weight @ kl).item(), rel=1e-6)
        assert row["policy/entropy"] == pytest.approx((weight @ reference.entropy(old.log())).item())
        eta = row["exact/return"]


@pytest.mark.parametrize("algo", ["cpi", "monotone_pi"])
def test_a_policy_that_cannot_be_improved_stays_bit_for_bit(algo: str) -> None:
    """With a single action none is better than another."""
    parts = built(f"algo={algo}", "env=RandomMDP-v0", "env.kwargs.num_actions=1")
    assert isinstance(parts.policy, TabularPolicy)
    with torch.no_grad():
        parts.policy.logits.copy_(torch.linspace(-3, 3, 20, dtype=torch.float64)[:, None])
    before = parts.policy.logits.clone()
    row = parts.iterate(0.0).metrics
    assert torch.equal(parts.policy.logits, before)
    assert row["trust_region/accepted"] == 0
    assert row["exact/true_change"] == 0


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sampler=single_path", "sampler: SinglePath does not go with algo, a PolicyIteration: sampler=exact does"),
        ("policy=mlp", "policy: MLPPolicy does not go with algo, a PolicyIteration: policy=tabular does"),
        ("env=CartPole-v1", "env.id: CartPole-v1 exposes no finite model"),
        ("algo.gamma=1.0", "algo.gamma: got 1.0"),
    ],
)
def test_policy_iteration_says_what_it_needs(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        built("algo=monotone_pi", "env=FrozenLake-v1", override)
