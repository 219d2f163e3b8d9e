"""Each algorithm on environments that each isolate one failure: value, credit, time limits, what is seen and done."""

from __future__ import annotations

import probes  # noqa: F401  registers the probe environments
import pytest
import torch
from conftest import built, thinned

from trpo_cli.algos.policy_gradient import PolicyGradient
from trpo_cli.parts import Parts
from trpo_cli.play.episodes import Episodes, evaluate

ALGORITHMS = ("trpo", "npg", "vpg", "vpg_adam", "ppo")
SMALL = ("sampler.num_envs=8", "sampler.steps_per_iteration=256", "policy.hidden_sizes=[16]")


def trained(env: str, iterations: int, *overrides: str) -> Parts:
    parts = built("env=gym", f"env.id=Probe/{env}-v0", *SMALL, *overrides)
    for i in range(iterations):
        parts.iterate(i / iterations)
    return parts


def best_return(parts: Parts, episodes: int = 32) -> float:
    return evaluate(parts.task, parts.policy, parts.normalizer, Episodes(episodes, 100), seed=0).returns.mean()


@pytest.mark.parametrize(("env", "algo"), thinned(3, ["Action", "Match", "States", "Multi", "Binary"], ALGORITHMS))
def test_finds_the_rewarded_action(algo: str, env: str) -> None:
    """The chance of a random policy is at most one half."""
    rates = {"vpg": ("algo.delta=0.1",), "vpg_adam": (), "ppo": ("algo.learning_rate=3e-3",)}
    iterations = 30 if algo in rates else 12  # a natural step without a line search does not stop at the optimum
    parts = trained(env, iterations, f"algo={algo}", *rates.get(algo, ()), "critic.learning_rate=1e-2")
    assert best_return(parts) == 1.0


@pytest.mark.parametrize("algo", thinned(2, ALGORITHMS))
def test_finds_the_rewarded_continuous_action(algo: str) -> None:
    """At 0 the return is -0.5; at half the observation it is 0."""
    rates = {"vpg": ("algo.delta=0.02",), "ppo": ("algo.learning_rate=3e-3",)}
    parts = trained("Continuous", 60, f"algo={algo}", *rates.get(algo, ()), "critic.learning_rate=1e-2")
    assert best_return(parts) > -0.05


def test_a_linear_policy_finds_it_too() -> None:
    assert best_return(trained("Match", 12, "policy=linear")) == 1.0


SEEING = ("policy=cnn", "policy.convolutions=[[8,4,2],[8,3,1]]", "policy.hidden_sizes=[16]")


@pytest.mark.parametrize(
    "method",
    [("algo=trpo", "critic=zero", "algo.delta=0.05"), ("algo=ppo", "critic=shared", "algo.learning_rate=3e-3")],
)
def test_convolutions_find_what_may_be_anywhere_in_a_picture(method: tuple[str, ...]) -> None:
    """A guess is right half of the time. A fully connected network would have to learn each place by itself."""
    more = (*method, "sampler.steps_per_iteration=1024")
    assert best_return(trained("Bar", 6, *more, *SEEING), episodes=400) > 0.8
    assert best_return(trained("Bar", 6, *more, "policy.hidden_sizes=[64,64]"), episodes=400) < 0.7


def test_ppo_with_a_shared_trunk() -> None:
    parts = trained("Match", 30, "algo=ppo", "critic=shared", "algo.learning_rate=3e-3")
    assert best_return(parts) == 1.0
    (rollout,) = parts.sampler.collect(parts.policy)
    value = parts.critic.predict(rollout.observation[0])
    torch.testing.assert_close(value, torch.ones_like(value), atol=0.25, rtol=0)


@pytest.mark.parametrize(("algo", "iterations"), [("trpo", 5), ("ppo", 6)])
def test_finds_what_two_entries_say_together(algo: str, iterations: int) -> None:
    """Each of them alone says nothing: half of five rewards."""
    faster = ("algo.learning_rate=1e-3",) if algo == "ppo" else ()
    encoded = ("policy=multi_input", "critic=multi_input", "sampler.steps_per_iteration=512", "algo.gamma=0.5")
    assert best_return(trained("Several", iterations, f"algo={algo}", *encoded, *faster)) > 4.5


VALUES = {
    "Constant": {0.5: 1.0},
    "Observation": {-1.0: -1.0, 1.0: 1.0},
    "TwoSteps": {0.0: 0.5, 1.0: 1.0},
    "TimeLimit": {0.0: 2.0},
}


@pytest.mark.parametrize(
    ("critic", "advantage", "env"), thinned(5, ["mlp", "linear"], ["gae", "n_step", "monte_carlo"], list(VALUES))
)
def test_the_critic_learns_the_value(env: str, advantage: str, critic: str) -> None:
    """gamma 0.5. TimeLimit is worth 2 only if its cut-off episodes are closed with the value of their successor."""
    faster = ("critic.learning_rate=1e-2",) if critic == "mlp" else ()
    parts = trained(env, 30, f"algo/advantage={advantage}", "algo.gamma=0.5", f"critic={critic}", *faster)
    expected = VALUES[env]
    observation = torch.tensor(list(expected))[:, None]
    if env == "Constant":
        (rollout,) = parts.sampler.collect(parts.policy)
        observation = rollout.observation[0, :1]
    value = parts.critic.predict(observation)
    torch.testing.assert_close(value, torch.tensor(list(expected.values())), atol=0.1, rtol=0)


@pytest.mark.parametrize("algo", ["trpo", "npg", "vpg"])
def test_a_silent_environment_moves_nothing(algo: str) -> None:
    """Without reward and baseline the gradient is zero: the policy stays bit for bit, the reason is a metric."""
    parts = built("env=gym", "env.id=Probe/Silent-v0", *SMALL, f"algo={algo}", "critic=zero")
    before = {name: value.clone() for name, value in parts.policy.state_dict().items()}
    row = parts.iterate(0.0).metrics
    assert row["trust_region/outcome"] == 1
    assert row["trust_region/accepted"] == 0
    assert row["critic/explained_variance"] is None
    assert all(torch.equal(value, before[name]) for name, value in parts.policy.state_dict().items())


def test_the_state_weights_are_gamma_to_the_time() -> None:
    parts = built("env=gym", "env.id=Probe/TwoSteps-v0", *SMALL, "algo.discount_states=true", "algo.gamma=0.5")
    assert isinstance(parts.algorithm, PolicyGradient)
    batch, _ = parts.algorithm.estimate(parts.sampler.collect(parts.policy))
    first = batch.states[0].observation[:, 0] == 0
    torch.testing.assert_close(batch.weight[first] / 2, batch.weight[~first][: first.sum()])
    assert batch.weight.mean().item() == pytest.approx(1.0)
