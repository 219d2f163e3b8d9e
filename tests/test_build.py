"""Building from configuration: signatures are the schema, and only allowed packages are code."""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import Any

import pytest
import torch
from conftest import vectors

from trpo_cli.config.build import build, build_function, fill
from trpo_cli.config.settings import Settings
from trpo_cli.envs.make import Task
from trpo_cli.errors import ConfigError
from trpo_cli.models.critics import Critic, LinearCritic
from trpo_cli.models.policies import Policy
from trpo_cli.returns import gae
from trpo_cli.shards import ONE

LINEAR = {"_target_": "trpo_cli.models.critics.LinearCritic", "ridge": 1e-3}
GAE = {"_target_": "trpo_cli.returns.gae", "lam": 0.9}
MLP = {
    "_target_": "trpo_cli.models.policies.mlp.MLPPolicy",
    "hidden_sizes": [4, 4],
    "activation": "tanh",
    "output_gain": 1.0,
    "initial_log_std": 0,
}


def test_a_class_gets_its_values_and_the_context_it_names() -> None:
    critic = build(LINEAR, "critic", Critic, observation=vectors(3), unrelated="ignored")
    assert isinstance(critic, LinearCritic)
    assert critic.ridge == 1e-3
    assert critic.weights.shape == (7,)


def test_a_function_waits_for_its_positional_arguments() -> None:
    advantage = build_function(GAE, "algo.advantage")
    assert isinstance(advantage, functools.partial)
    assert advantage.func is gae
    ones, no = torch.ones(2, 1), torch.zeros(2, 1, dtype=torch.bool)
    assert advantage(ones, ones, ones, no, no, 0.5).shape == (2, 1)


VALUES = [
    ({**LINEAR, "rigde": 1}, r"x.rigde: no such key; did you mean 'x.ridge'\?"),
    ({**LINEAR, "colour": 1}, r"x.colour: no such key; known keys are: ridge"),
    ({**LINEAR, "observation": 3}, r"x.observation: no such key"),
    ({**LINEAR, "ridge": -1}, r"x.ridge: got -1; it should be greater than 0"),
    ({**LINEAR, "ridge": "much"}, r"x.ridge: got 'much'; it should be a valid number"),
    ({**LINEAR, "ridge": float("nan")}, r"x.ridge: got nan"),
    ({**LINEAR, "ridge": True}, r"x.ridge: got True"),
    ({"_target_": LINEAR["_target_"]}, r"x.ridge: missing; trpo_cli.models.critics.LinearCritic needs it"),
    ("linear", r"x: got 'linear'; a part is chosen from its group, with a slash: x=linear"),
    (None, r"x: got None; a part is chosen from its group, with a slash: x=NAME"),
    (MLP, r"x._target_: 'trpo_cli.models.policies.mlp.MLPPolicy' is no Critic"),
    ({"_target_": "trpo_cli.models.critics.explained_variance"}, r"x._target_: .* is no Critic"),
    ({"_target_": "trpo_cli.models.critics.Nothing"}, r"x._target_: .* cannot be found"),
    ({"_target_": 5}, r"x._target_: '5' is no name of a class or function with its package"),
]


@pytest.mark.parametrize(("node", "said"), VALUES)
def test_what_does_not_fit_is_named(node: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(node, "x", Critic, observation=vectors(3), shards=ONE)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_sizes": [64, 0]}, r"x.hidden_sizes\[1\]: got \[64, 0\]; it should be greater than or equal to 1"),
        ({"hidden_sizes": 64}, r"x.hidden_sizes: got 64; it should be a valid list"),
        ({"activation": "tahn"}, r"x.activation: got 'tahn'; it should be 'tanh', 'relu', 'elu' or 'silu'"),
    ],
)
def test_lists_and_choices_are_checked(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build({**MLP, **change}, "x", Policy, observation=vectors(3), distribution=None)


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ({**GAE, "gamma": 0.5}, r"x.gamma: no such key"),
        ({**GAE, "lam": 1.5}, r"x.lam: got 1.5; it should be less than or equal to 1"),
        ({"_target_": GAE["_target_"]}, r"x.lam: missing"),
        (LINEAR, r"x._target_: 'trpo_cli.models.critics.LinearCritic' is no function"),
        ("gae", r"x: got 'gae'; a part is chosen from its group"),
    ],
)
def test_what_does_not_fit_a_function_is_named(node: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_function(node, "x")


LOCATE = {"target": "os.system", "path": "x", "plugins": ["os", "posix"], "_target_": "trpo_cli.config.build.locate"}
HOSTILE = [
    {"_target_": "os.system", "command": "true"},
    {"_target_": "trpo_cli.run.directory.subprocess.run", "args": "true"},
    {"_target_": "trpo_cli.run.directory.Run", "directory": ".", "config": "text", "keep": 1},
    {"_target_": "trpo_cli.run.checkpoint.save", "path": "file", "state": {}},
    {"_target_": "trpo_cli.config.build.build_function", "node": LOCATE, "path": "x"},
    {"_target_": "trpo_cli.evaluate.import_plugins", "plugins": ["antigravity"]},
    {"_target_": "trpo_cli.envs.make.gymnasium.make", "id": "CartPole-v1"},
    {"_target_": "trpo_cli.envs.make.ConfigError", "args": "x"},
    {"_target_": "trpo_cli.models.critics.copy.deepcopy", "x": 1},
    {"_target_": "trpo_cli_evil.critics.Critic"},
    {"_target_": "trpo_cli.algos.policy_gradient.logger.info", "msg": "x"},
    {"_target_": "..os.system", "command": "true"},
]


@pytest.mark.parametrize("node", HOSTILE, ids=lambda node: node["_target_"])
def test_a_stranger_s_configuration_calls_nothing_but_parts(node: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"x._target_: "):
        build(node, "x", Task)
    with pytest.raises(ConfigError, match=r"x._target_: "):
        build_function(node, "x")


def test_a_plugin_is_allowed_only_when_named() -> None:
    node = {"_target_": "fractions.Fraction", "numerator": 1, "denominator": 2}
    assert build(node, "x", Fraction, ["fractions"]) == Fraction(1, 2)
    with pytest.raises(
        ConfigError,
        match=r"if you trust that package, plugins=\[fractions\] of trpo-train allows it, or --plugins fractions",
    ):
        build(node, "x", Fraction)
    with pytest.raises(ConfigError, match=r"is not in a package"):
        build(node, "x", Fraction, [""])


def test_a_constructor_that_refuses_is_reported_with_its_path() -> None:
    with pytest.raises(ConfigError, match=r"x: Fraction: .*Invalid literal"):
        build({"_target_": "fractions.Fraction", "numerator": "half"}, "x", Fraction, ["fractions"])


def test_settings_are_checked_to_the_leaves() -> None:
    good: dict[str, Any] = {
        "seed": 0,
        "total_steps": 10,
        "device": "cpu",
        "update_threads": 1,
        "plugins": [],
        "eval": {"every": 0, "episodes": 1, "max_episode_steps": 1},
        "checkpoint": {"every": 1, "keep": 1},
        "fault_patience": 3,
    }
    assert fill(Settings, good).eval.every == 0
    for change, said in (
        ({"seed": "a"}, "seed: got 'a'; it should be a valid integer"),
        ({"seed": 1.5}, "seed: got 1.5"),
        ({"total_steps": 0}, "total_steps: got 0; it should be greater than or equal to 1"),
        ({"eval": {"every": -1, "episodes": 1, "max_episode_steps": 1}}, "eval.every: got -1"),
        ({"eval": {"every": 1, "often": 1}}, "eval.often: no such key"),
        ({"eval": {"every": 1, "episodes": 1}}, "eval.max_episode_steps: missing"),
        ({"eval": 3}, "eval: got 3; it should hold every, episodes, max_episode_steps"),
        ({"plugins": "probes"}, "plugins: got 'probes'; it should be a valid list"),
        ({"sede": 1}, r"sede: no such key; did you mean 'seed'\?"),
    ):
        with pytest.raises(ConfigError, match=said):
            fill(Settings, {**good, **change})
