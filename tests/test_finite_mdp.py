"""Exact values against closed forms, worked numbers and Monte Carlo; the identities and bounds of the theory."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trpo_cli.envs.random_mdp import RandomMDP
from trpo_cli.errors import ConfigError
from trpo_cli.exact.finite_mdp import FiniteMDP, Guarantee, Values
from trpo_cli.exact.kl_ball import kl_divergence

LIMITED = settings(derandomize=True, max_examples=60, deadline=None)


class Model(gymnasium.Env[int, int]):
    """Nothing but a model, as toy-text environments expose it."""

    def __init__(self, table: dict[int, dict[int, list[tuple[float, int, float, bool]]]], start: list[float]) -> None:
        self.P, self.initial_state_distrib = table, np.array(start)


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random_table(rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
    """Some rows near uniform, some nearly deterministic, some with zeros."""
    table = rng.dirichlet(np.full(shape[1], rng.choice([0.1, 1.0, 10.0])), size=shape[0])
    table[rng.random(shape) < 0.2] = 0.0
    table[table.sum(-1) == 0, 0] = 1.0
    return torch.from_numpy(table / table.sum(-1, keepdims=True))


@st.composite
def problems(draw: st.DrawFn) -> tuple[FiniteMDP, Tensor, Tensor, float]:
    """A process, two policies and gamma."""
    num_states, num_actions = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    env = RandomMDP(
        num_states=num_states,
        num_actions=num_actions,
        branching=draw(st.integers(1, num_states)),
        termination=draw(st.sampled_from([0.0, 0.1, 0.9])),
        mdp_seed=draw(st.integers(0, 1000)),
    )
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    old, new = (random_table(rng, (num_states, num_actions)) for _ in range(2))
    mixture = draw(st.sampled_from([0.01, 0.5, 1.0]))
    return FiniteMDP.from_env(env), old, old.lerp(new, mixture), draw(st.sampled_from([0.0, 0.5, 0.9, 0.99]))


def expected_advantage(values: Values, visitation: Tensor, table: Tensor) -> float:
    """sum_s rho(s) sum_a pi(a|s) A(s, a)."""
    return (visitation @ (table * values.advantage).sum(-1)).item()


def test_a_chain_by_hand() -> None:
    """Two states; the first goes on to the second with 3/4, ends else; the second pays 4 and ends."""
    table = {0: {0: [(0.75, 1, 1.0, False), (0.25, 1, 3.0, True)]}, 1: {0: [(1.0, 1, 4.0, True)]}}
    mdp = FiniteMDP.from_env(Model(table, [0.5, 0.5]))
    values = mdp.evaluate(rows([1.0], [1.0]), 0.5)
    torch.testing.assert_close(mdp.reward, rows([1.5], [4.0]))
    torch.testing.assert_close(values.value, torch.tensor([1.5 + 0.5 * 0.75 * 4, 4.0], dtype=torch.float64))
    torch.testing.assert_close(values.visitation, torch.tensor([0.5, 0.5 + 0.5 * 0.75 * 0.5], dtype=torch.float64))
    torch.testing.assert_close(values.advantage, rows([0.0], [0.0]))
    assert values.eta == pytest.approx(3.5)


def test_the_model_is_read_in_double_precision() -> None:
    """A third of the time it goes on, and pays a tenth: neither is a float32."""
    mdp = FiniteMDP.from_env(Model({0: {0: [(1 / 3, 0, 0.1, False), (2 / 3, 0, 0.1, True)]}}, [1.0]))
    assert mdp.evaluate(rows([1.0]), 0.9).eta == pytest.approx(0.1 / 0.7, rel=1e-14)


def test_a_state_that_pays_forever() -> None:
    mdp = FiniteMDP.from_env(Model({0: {0: [(1.0, 0, 2.0, False)], 1: [(1.0, 0, 3.0, False)]}}, [1.0]))
    values = mdp.evaluate(rows([1.0, 0.0]), 0.9)
    assert values.eta == pytest.approx(20)
    assert values.visitation.item() == pytest.approx(10)
    torch.testing.assert_close(values.action_value, rows([20.0, 21.0]))


def test_the_tree_of_the_seminar() -> None:
    """Seed 000: eta(pi~) = 4 + 0.5 * -3 + 0.5 * (0 + 0.25 * -1 + 0.75 * 1) = 2.75. Left pays 1; right 3 or 5."""
    table = {
        0: {0: [(1.0, 0, 1.0, True)], 1: [(1.0, 1, 0.0, False)]},
        1: {0: [(1.0, 1, 3.0, True)], 1: [(1.0, 1, 5.0, True)]},
    }
    mdp = FiniteMDP.from_env(Model(table, [1.0, 0.0]))
    old, new = mdp.evaluate(rows([0.0, 1.0], [0.5, 0.5]), 1.0), rows([0.5, 0.5], [0.25, 0.75])
    torch.testing.assert_close(old.advantage, rows([-3.0, 0.0], [-1.0, 1.0]))
    left = mdp.evaluate(new, 1.0)
    assert old.eta == 4
    assert left.eta == pytest.approx(2.75)
    assert old.eta + expected_advantage(old, left.visitation, new) == pytest.approx(2.75)


def test_frozen_lake_and_cliff_walking_by_hand() -> None:
    """The lake without ice: the goal is six steps away. The cliff: thirteen steps, each costs one, at gamma = 1."""
    lake = FiniteMDP.from_env(gymnasium.make("FrozenLake-v1", is_slippery=False))
    down, right, table = 1, 2, torch.zeros(16, 4, dtype=torch.float64)
    table[:, right] = 1
    for state in (0, 4, 9, 10):
        table[state] = torch.eye(4)[down]
    assert lake.evaluate(table, 0.9).eta == pytest.approx(0.9**5)
    cliff = FiniteMDP.from_env(gymnasium.make("CliffWalking-v1"))
    up, right, down, table = 0, 1, 2, torch.zeros(48, 4, dtype=torch.float64)
    table[:36, right], table[36:, up] = 1, 1
    table[[11, 23, 35]] = torch.eye(4, dtype=torch.float64)[down]
    assert cliff.evaluate(table, 1.0).eta == pytest.approx(-13)


@pytest.mark.parametrize("options", [{}, {"is_rainy": True}])
def test_taxi_is_read(options: dict[str, Any]) -> None:
    env = gymnasium.make("Taxi-v4", **options)
    mdp = FiniteMDP.from_env(env)
    values = mdp.evaluate(torch.full((500, 6), 1 / 6, dtype=torch.float64), 0.99)
    assert mdp.reward.shape == (500, 6)
    assert values.visitation.sum() == pytest.approx(100, rel=0.05)  # a random driver hardly ever delivers
    assert values.eta < -300


def test_agrees_with_episodes_that_were_played() -> None:
    """Return and visits of 4,000 episodes, within four standard errors."""
    gamma, episodes = 0.9, 4000
    env = gymnasium.make("RandomMDP-v0", num_states=3, num_actions=2, branching=2, termination=0.3, mdp_seed=4)
    table = rows([0.2, 0.8], [0.5, 0.5], [0.9, 0.1])
    values = FiniteMDP.from_env(env).evaluate(table, gamma)
    rng = np.random.default_rng(0)
    played = np.zeros((episodes, 1 + 3))  # discounted return, discounted visits of each state
    env.reset(seed=0)
    for episode in played:
        state, _ = env.reset()
        discount, ended = 1.0, False
        while not ended:
            episode[1 + state] += discount
            state, reward, terminated, truncated, _ = env.step(int(rng.random() > table[state, 0]))
            episode[0] += discount * float(reward)
            discount, ended = discount * gamma, terminated or truncated
    error = played.std(0, ddof=1) / math.sqrt(episodes)
    expected = np.array([values.eta, *values.visitation.tolist()])
    assert (np.abs(played.mean(0) - expected) < 4 * error).all()
    assert (error < 0.05).all()


@LIMITED
@given(problems())
def test_the_identities(problem: tuple[FiniteMDP, Tensor, Tensor, float]) -> None:
    """Bellman's equation, E_pi A = 0, eta = rho . r_pi, and equation 2 of the TRPO paper."""
    mdp, old, new, gamma = problem
    values, others = mdp.evaluate(old, gamma), mdp.evaluate(new, gamma)
    scale = values.action_value.abs().max().item() + others.action_value.abs().max().item()
    close = {"rel": 0, "abs": 1e-12 * scale / (1 - gamma)}
    assert (old * values.action_value).sum(-1).sub(values.value).abs().max() == pytest.approx(0, **close)
    assert (old * values.advantage).sum(-1).abs().max() == pytest.approx(0, **close)
    assert values.visitation @ (old * mdp.reward).sum(-1) == pytest.approx(values.eta, **close)
    assert values.eta + expected_advantage(values, others.visitation, new) == pytest.approx(others.eta, **close)


@LIMITED
@given(problems())
def test_the_surrogate_is_the_return_to_first_order(problem: tuple[FiniteMDP, Tensor, Tensor, float]) -> None:
    """The gradient by logits: through the linear solve for eta; rho and A held fixed for L (TRPO paper, equation 4)."""
    mdp, _, _, gamma = problem
    logits = torch.linspace(-1, 1, mdp.reward.numel(), dtype=torch.float64).view_as(mdp.reward).requires_grad_()
    values = mdp.evaluate(logits.softmax(-1), gamma)
    (exact,) = torch.autograd.grad((mdp.start * values.value).sum(), logits, retain_graph=True)
    surrogate = values.visitation.detach() @ (logits.softmax(-1) * values.advantage.detach()).sum(-1)
    (approximate,) = torch.autograd.grad(surrogate, logits)
    torch.testing.assert_close(approximate, exact, rtol=1e-9, atol=1e-10)


@LIMITED
@given(problems())
def test_the_bounds(problem: tuple[FiniteMDP, Tensor, Tensor, float]) -> None:
    """|eta(pi~) - L| <= 4 epsilon gamma alpha^2 / (1 - gamma)^2 (21), TV^2 <= KL, eta >= L - C max KL (22)."""
    mdp, old, new, gamma = problem
    values, eta = mdp.evaluate(old, gamma), mdp.evaluate(new, gamma).eta
    surrogate = values.eta + expected_advantage(values, values.visitation, new)
    variation, kl = (old - new).abs().sum(-1) / 2, kl_divergence(old, new)
    coefficient = 4 * values.advantage.abs().max().item() * gamma / (1 - gamma) ** 2
    rounding = 1e-11 * (1 + values.action_value.abs().max().item())
    assert abs(eta - surrogate) <= coefficient * variation.max().item() ** 2 + rounding
    assert (variation.square() <= kl + 1e-15).all()
    if coefficient > 0:
        assert eta >= surrogate - coefficient * kl.max().item() - rounding


def test_episodes_without_an_end_are_refused_at_gamma_one() -> None:
    """The first action ends, the second loops: a policy that always loops has no return, unless gamma is below one."""
    mdp = FiniteMDP.from_env(Model({0: {0: [(1.0, 0, 1.0, True)], 1: [(1 / 3, 0, 1.0, False)] * 3}}, [1.0]))
    assert mdp.evaluate(rows([0.25, 0.75]), 1.0).eta == pytest.approx(4)
    assert mdp.evaluate(rows([0.0, 1.0]), 0.5).eta == pytest.approx(2)
    for never in (0.0, 1e-12, 6e-9):
        with pytest.raises(ConfigError, match=r"^algo\.gamma: got 1\.0.* state 0 does not converge"):
            mdp.evaluate(rows([never, 1 - never]), 1.0)


def test_one_state_without_an_end_is_enough() -> None:
    hardly = [(1 - 1e-12, 1, 1.0, False), (1e-12, 1, 1.0, True)]
    mdp = FiniteMDP.from_env(Model({0: {0: [(1.0, 0, 1.0, True)]}, 1: {0: hardly}}, [1.0, 0.0]))
    with pytest.raises(ConfigError, match="state 1 does not converge"):
        mdp.evaluate(rows([1.0], [1.0]), 1.0)


def test_the_guarantee_by_hand() -> None:
    """L = 1 + 2 (1/4 - 9/4) + 1/2, C = 4 * 3 * 0.5 / 0.25 = 24, and the KL is ln(4/3) / 2 in the state that changes."""
    none = torch.zeros(2, 2, dtype=torch.float64)
    advantage, visitation = rows([1.0, -3.0], [2.0, 0.0]), torch.tensor([2.0, 0.5], dtype=torch.float64)
    old = Values(none[0], none, advantage, visitation, eta=1.0)
    new = Values(none[0], none, 2 * advantage, visitation, eta=3.0)
    tables = rows([0.5, 0.5], [0.5, 0.5]), rows([0.25, 0.75], [0.5, 0.5])
    penalty = 12 * math.log(4 / 3)
    assert Guarantee.between(old, tables[0], new, tables[1], gamma=0.5).metrics() == pytest.approx(
        {
            "exact/return": 3.0,
            "exact/surrogate": -2.5,
            "exact/penalty": penalty,
            "exact/lower_bound": -2.5 - penalty,
            "exact/true_change": 2.0,
        }
    )


def test_what_has_no_model_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^env\.id: CartPole-v1 .* no `P`"):
        FiniteMDP.from_env(gymnasium.make("CartPole-v1"))
    with pytest.raises(ConfigError, match="fickle_passenger"):
        FiniteMDP.from_env(gymnasium.make("Taxi-v4", fickle_passenger=True))
    env = Model({0: {0: [(1.0, 0, 0.0, True)]}}, [1.0])
    del env.initial_state_distrib
    with pytest.raises(ConfigError, match="no `initial_state_distrib`"):
        FiniteMDP.from_env(env)


@pytest.mark.parametrize(
    ("transition", "start", "message"),
    [
        ((0.9, 0, 0.0, True), [1.0], "do not sum to one"),
        ((float("nan"), 0, 0.0, True), [1.0], "do not sum to one"),
        ((1.0, 1, 0.0, True), [1.0], "1 states"),
        ((1.0, 0, 0.0, True), [0.5, 0.5], "1 states"),
        ((1.0, 0, float("inf"), True), [1.0], "not finite"),
        ((1.0, 0, 0.0, True), [0.5], "not a probability distribution"),
    ],
)
def test_a_faulty_model_is_refused(
    transition: tuple[float, int, float, bool], start: list[float], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        FiniteMDP.from_env(Model({0: {0: [transition]}}, start))


SOUND = [(1.0, 0, 0.0, True)]


@pytest.mark.parametrize(
    ("transitions", "start", "message"),
    [
        (SOUND, [1.5, -0.5], "not a probability distribution"),
        ([(0.9, 0, 0.0, True)], [0.5, 0.5], "do not sum to one"),
        ([(1.5, 0, 0.0, True), (-0.5, 0, 0.0, True)], [0.5, 0.5], "do not sum to one"),
        ([(0.5, 0, 0.0, True), (0.5, 2, 0.0, True)], [0.5, 0.5], "2 states"),
        ([(1.0, 0, float("inf"), True)], [0.5, 0.5], "not finite"),
    ],
)
def test_one_fault_is_enough(
    transitions: list[tuple[float, int, float, bool]], start: list[float], message: str
) -> None:
    """Beside a state that is as it should be."""
    with pytest.raises(ConfigError, match=message):
        FiniteMDP.from_env(Model({0: {0: SOUND}, 1: {0: transitions}}, start))


def test_the_random_process_keeps_gymnasiums_contract() -> None:
    check_env(gymnasium.make("RandomMDP-v0").unwrapped, skip_render_check=True)


def test_the_random_process_is_fixed_by_its_own_seed() -> None:
    one, same, other = (RandomMDP(mdp_seed=seed) for seed in (1, 1, 2))
    one.reset(seed=7)
    assert one.P == same.P
    assert one.P != other.P
    paths = []
    for seed in (5, 5, 6):
        states = [one.reset(seed=seed)[0]]
        for action in [0, 1, 2, 3] * 10:
            states.append(one.step(action)[0])
        paths.append(states)
    assert paths[0] == paths[1]
    assert paths[0] != paths[2]


def test_the_random_process_is_as_described() -> None:
    env = RandomMDP(num_states=5, num_actions=3, branching=4, termination=0.25, mdp_seed=3)
    assert (env.observation_space, env.action_space) == (spaces.Discrete(5), spaces.Discrete(3))
    for actions in env.P.values():
        for transitions in actions.values():
            assert len({successor for _, successor, _, _ in transitions}) == 4
            assert sum(p for p, _, _, done in transitions if done) == pytest.approx(0.25)
            assert len({reward for _, _, reward, _ in transitions}) == 1
    endless = RandomMDP(termination=0.0).P
    assert not any(done for actions in endless.values() for rows in actions.values() for *_, done in rows)


@pytest.mark.parametrize("wrong", [{"branching": 21}, {"branching": 0}, {"num_actions": 0}, {"termination": 1.5}])
def test_impossible_random_processes_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}: got"):
        RandomMDP(**wrong)
