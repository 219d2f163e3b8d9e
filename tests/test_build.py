"""Building from configuration: signatures are the schema, and only allowed packages are code."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from trpo_cli.build import build, fill
from trpo_cli.critics import LinearCritic
from trpo_cli.errors import ConfigError
from trpo_cli.returns import gae
from trpo_cli.train import Settings

LINEAR = {"_target_": "trpo_cli.critics.LinearCritic", "ridge": 1e-3}
GAE = {"_target_": "trpo_cli.returns.gae", "_partial_": True, "lam": 0.9}
MLP = {
    "_target_": "trpo_cli.policies.mlp.MLPPolicy",
    "hidden_sizes": [4, 4],
    "activation": "tanh",
    "output_gain": 1.0,
    "initial_log_std": 0,
}


def test_a_class_gets_its_values_and_the_context_it_names() -> None:
    critic = build(LINEAR, "critic", observation_size=3, unrelated="ignored")
    assert isinstance(critic, LinearCritic)
    assert critic.ridge == 1e-3
    assert critic.weights.shape == (7,)


def test_a_partial_waits_for_its_positional_arguments() -> None:
    advantage = build(GAE, "algo.advantage")
    assert isinstance(advantage, functools.partial)
    assert advantage.func is gae
    ones, no = torch.ones(2, 1), torch.zeros(2, 1, dtype=torch.bool)
    assert advantage(ones, ones, ones, no, no, 0.5).shape == (2, 1)


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ({**LINEAR, "rigde": 1}, r"critic.rigde: no such key; did you mean 'ridge'\?"),
        ({**LINEAR, "colour": 1}, r"critic.colour: no such key; known are: ridge"),
        ({**LINEAR, "observation_size": 3}, r"critic.observation_size: no such key"),
        ({**LINEAR, "ridge": -1}, r"critic.ridge: got -1; it should be greater than 0"),
        ({**LINEAR, "ridge": "much"}, r"critic.ridge: got 'much'; it should be a valid number"),
        ({**LINEAR, "ridge": float("nan")}, r"critic.ridge: got nan"),
        ({**LINEAR, "ridge": True}, r"critic.ridge: got True"),
        ({"_target_": LINEAR["_target_"]}, r"critic.ridge: missing; trpo_cli.critics.LinearCritic needs it"),
        (
            {**MLP, "hidden_sizes": [64, 0]},
            r"critic.hidden_sizes\[1\]: got \[64, 0\]; it should be greater than or equal to 1",
        ),
        ({**MLP, "hidden_sizes": 64}, r"critic.hidden_sizes: got 64; it should be a valid list"),
        ({**MLP, "activation": "tahn"}, r"critic.activation: got 'tahn'; it should be 'tanh', 'relu', 'elu' or 'silu'"),
        ({**GAE, "gamma": 0.5}, r"critic.gamma: no such key"),
        ({**GAE, "lam": 1.5}, r"critic.lam: got 1.5; it should be less than or equal to 1"),
        ("gae", r"critic: got 'gae'; a part is chosen from its group, with a slash: critic=NAME"),
        ({"_target_": "os.system", "command": "true"}, r"critic._target_: 'os.system' is not in an allowed package"),
        ({"_target_": "trpo_cli.run.subprocess.run", "args": "true"}, r"critic._target_: .* cannot be found"),
        ({"_target_": "trpo_cli.run.version", "name": "x"}, r"critic._target_: .* is no class or function of trpo_cli"),
        ({"_target_": "trpo_cli.critics.Nothing"}, r"critic._target_: .* cannot be found"),
        ({"_target_": 5}, r"critic._target_: '5' is not in an allowed package"),
    ],
)
def test_what_does_not_fit_is_named(node: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(node, "critic", observation_size=3, distribution=None)


def test_a_plugin_is_allowed_only_when_named() -> None:
    node = {"_target_": "fractions.Fraction", "numerator": 1, "denominator": 2}
    assert str(build(node, "x", ["fractions"])) == "1/2"
    with pytest.raises(ConfigError, match=r"plugins=\[fractions\] allows its package"):
        build(node, "x")


def test_a_constructor_that_refuses_is_reported_with_its_path() -> None:
    with pytest.raises(ConfigError, match=r"x: Fraction: .*Invalid literal"):
        build({"_target_": "fractions.Fraction", "numerator": "half"}, "x", ["fractions"])


def test_settings_are_checked_to_the_leaves() -> None:
    good: dict[str, Any] = {
        "seed": 0,
        "total_steps": 10,
        "plugins": [],
        "eval": {"every": 0, "episodes": 1},
        "checkpoint": {"every": 1, "keep": 1},
    }
    assert fill(Settings, good).eval.every == 0
    for change, said in (
        ({"seed": "a"}, "seed: got 'a'; it should be a valid integer"),
        ({"seed": 1.0}, "seed: got 1.0"),
        ({"total_steps": 0}, "total_steps: got 0; it should be greater than or equal to 1"),
        ({"eval": {"every": -1, "episodes": 1}}, "eval.every: got -1"),
        ({"eval": {"every": 1, "episodes": 1, "often": 1}}, "eval.often: no such key"),
        ({"plugins": "probes"}, "plugins: got 'probes'; it should be a valid list"),
        ({"sede": 1}, r"sede: no such key; did you mean 'seed'\?"),
    ):
        with pytest.raises(ConfigError, match=said):
            fill(Settings, {**good, **change})
