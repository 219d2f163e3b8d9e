"""Tabular policies, and the two exact policy iterations against closed forms, grids, random rivals and their bounds."""

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
from trpo_cli.exact.kl_ball import kl_divergence, penalised_argmax
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


def objective(old: Tensor, advantage: Tensor, visitation: Tensor, coefficient: float, new: Tensor) -> float:
    """What `penalised_argmax` maximises."""
    gain = visitation @ ((new - old) * advantage).sum(-1)
    return (gain - coefficient * kl_divergence(old, new).max()).item()


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


# The penalised maximum


@pytest.mark.parametrize("coefficient", [1e-9, 1e-3, 1.0, 1e3, 1e6, 1e9, 1e12])
@pytest.mark.parametrize("unit", [1e-200, 1.0, 1e200])
def test_two_actions_in_closed_form(coefficient: float, unit: float) -> None:
    """old = (1/2, 1/2), A = (1, -1): pi = (1 + d, 1 - d) / 2 with 4 d / (1 - d^2) = 4 / C. The unit has no say."""
    table = penalised_argmax(rows([0.5, 0.5]), rows([unit, -unit]), torch.ones(1).double(), coefficient * unit)
    d = 2 / (coefficient + math.sqrt(coefficient**2 + 4))
    worse = coefficient * d / 2 / (1 + d)  # (1 - d) / 2
    assert (table[0, 0] - 0.5).item() == pytest.approx(d / 2, rel=1e-9, abs=1e-15)
    assert table[0, 1].item() == pytest.approx(worse, rel=1e-7, abs=0)


@pytest.mark.parametrize("never", [0.0, 5e-324, 1e-300, 1e-250, 1e-190, 1e-100])
@pytest.mark.parametrize("coefficient", [1e-6, 0.3, 0.999])
def test_a_best_action_that_was_never_taken(never: float, coefficient: float) -> None:
    """old = (1, 0), A = (0, 1): to maximise m + C log(1 - m) is m = 1 - C."""
    table = penalised_argmax(rows([1.0, never]), rows([0.0, 1.0]), torch.ones(1).double(), coefficient)
    torch.testing.assert_close(table, rows([coefficient, 1 - coefficient]))


def test_a_third_action_that_was_never_taken() -> None:
    """old = (1/2, 1/2, 0), A = (-1, 1, 2): pi = lambda old / (nu - A) on the first two, nu = 2 and lambda = C."""
    table = penalised_argmax(rows([0.5, 0.5, 0.0]), rows([-1.0, 1.0, 2.0]), torch.ones(1).double(), 0.3)
    torch.testing.assert_close(table, rows([0.05, 0.15, 0.8]))


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
    visited = torch.tensor([visitation], dtype=torch.float64)
    assert torch.equal(penalised_argmax(rows(old), rows(advantage), visited, coefficient), rows(old))


@pytest.mark.parametrize("coefficient", [0.05, 0.5, 5.0])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_a_grid(seed: int, coefficient: float) -> None:
    """Two states with two actions: all pairs of 2,001 probabilities."""
    rng = np.random.default_rng(seed)
    old, advantage, visitation = random_table(rng, (2, 2)), torch.from_numpy(rng.normal(size=(2, 2))), rows([1.0, 3.0])
    first = torch.linspace(1e-6, 1 - 1e-6, 2001, dtype=torch.float64)
    grid = torch.stack([first, 1 - first], 1)
    gain = [visitation[0, s] * ((grid - old[s]) @ advantage[s]) for s in range(2)]
    kl = [kl_divergence(old[s].expand_as(grid), grid) for s in range(2)]
    best = (gain[0][:, None] + gain[1] - coefficient * torch.maximum(kl[0][:, None], kl[1])).max().item()
    table = penalised_argmax(old, advantage, visitation[0], coefficient)
    reached = objective(old, advantage, visitation[0], coefficient, table)
    assert best <= reached + 1e-12
    assert best == pytest.approx(reached, abs=1e-3)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(problems(), st.floats(-12, 6), st.integers(0, 1000))
def test_no_rival_does_better(problem: tuple[FiniteMDP, Tensor, float], exponent: float, seed: int) -> None:
    """Rivals far away and near by; the objective is concave, so none near by means none at all."""
    mdp, old, gamma = problem
    values, rng, coefficient = mdp.evaluate(old, gamma), np.random.default_rng(seed), 10.0**exponent
    parts = (old, values.advantage, values.visitation, coefficient)
    table = penalised_argmax(*parts)
    assert (table >= 0).all()
    torch.testing.assert_close(table.sum(-1), torch.ones(len(table), dtype=torch.float64), rtol=0, atol=1e-14)
    reached = objective(*parts, table)
    assert reached >= 0
    scale = reached + 1e-15 * values.action_value.abs().max().item() / (1 - gamma)
    for size in (1.0, 0.1, 1e-2, 1e-3):
        for other in (old, random_table(rng, tuple(old.shape))):
            rival = table.lerp(other, size)
            assert objective(*parts, rival) <= reached + 1e-9 * scale
        rival = table * (1 + size * torch.from_numpy(rng.uniform(-1, 1, size=table.shape)))
        assert objective(*parts, rival / rival.sum(-1, keepdim=True)) <= reached + 1e-9 * scale


@pytest.mark.parametrize("gamma", [1e-6, 1e-3, 0.5, 0.99, 0.9999, 1 - 1e-7])
def test_all_states_use_the_whole_radius(gamma: float) -> None:
    """States with something to gain share one KL, however small; all else being equal, gain is half quadratic."""
    mdp = FiniteMDP.from_env(RandomMDP(termination=0.1))
    old = uniform(mdp)
    values = mdp.evaluate(old, gamma)
    coefficient = values.penalty_coefficient(gamma)
    table, penalty = monotone(values, old, gamma)
    kl = kl_divergence(old, table)
    assert kl.min().item() == pytest.approx(kl.max().item(), rel=1e-5 if gamma < 0.9999 else 1e-2)
    gain = values.surrogate(table) - values.eta
    assert 0 < penalty < gain
    if gamma >= 0.99:  # the quadratic model of the KL holds: kappa = (sum_s rho sigma)^2 / 2 C^2, penalty = gain / 2
        deviation = (old * values.advantage.square()).sum(-1).sqrt()
        predicted = (values.visitation @ deviation).item() ** 2 / (2 * coefficient**2)
        assert kl.max().item() == pytest.approx(predicted, rel=0.02)
        assert penalty == pytest.approx(gain / 2, rel=0.02)


def test_actions_that_were_hardly_ever_taken() -> None:
    """As p goes to zero, lambda = C and nu = C + A(likeliest): pi / old = C / (C + A(likeliest) - A)."""
    coefficient, old, advantage = 1e3, rows([1.0, 1e-29, 1e-30]), rows([0.3, 0.0, 1.0])
    table = penalised_argmax(old, advantage, torch.ones(1).double(), coefficient)
    torch.testing.assert_close(table / old, coefficient / (coefficient + 0.3 - advantage), rtol=1e-9, atol=0)


@pytest.mark.parametrize("coefficient", [1e14, 1e15, 1e16, 1e17])
def test_steps_smaller_than_rounding_do_no_harm(coefficient: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        parts = random_table(rng, (1, 3)), torch.from_numpy(rng.normal(size=(1, 3))), torch.ones(1).double()
        assert objective(*parts, coefficient, penalised_argmax(*parts, coefficient)) >= 0


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
        row = algorithm.iterate(0.0).metrics
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
    row = parts.algorithm.iterate(0.0).metrics
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
