"""Spaces: what goes to the environment is in its space, what it shows reaches the policy whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import probes  # noqa: F401  registers the probe environments
import pytest
import torch
from comparison import rows
from conftest import Command, composed, quiet_make, thinned
from gymnasium import spaces

from trpo_cli.config.groups import CONF, find_options
from trpo_cli.envs.make import Task
from trpo_cli.envs.spaces import action_decoder, describe_scale, encode_actions, observation_encoder
from trpo_cli.errors import ConfigError
from trpo_cli.models.distributions import DiagonalGaussian

ACTIONS: list[spaces.Space[Any]] = [
    spaces.Box(-0.5, 2.0, (3,), np.float32),
    spaces.Box(np.array([[-1.0, 0.0]]), np.array([[0.0, 9.0]]), dtype=np.float64),
    spaces.Discrete(4),
    spaces.Discrete(3, start=-1),
    spaces.MultiDiscrete([3, 2, 5]),
    spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, 0], [0, 2]]),
    spaces.MultiBinary(4),
    spaces.MultiBinary([2, 2]),
]


@pytest.mark.parametrize("space", ACTIONS, ids=str)
def test_every_sampled_action_is_in_its_space(space: spaces.Space[Any]) -> None:
    distribution, decode = action_decoder(space, "Some-v0")
    size = 2 * distribution.network_size if isinstance(distribution, DiagonalGaussian) else distribution.network_size
    parameters = torch.randn(200, size, generator=torch.Generator().manual_seed(0))
    actions = decode(
        distribution.sample(
            parameters, distribution.noise(parameters.shape[:1], torch.Generator().manual_seed(1))
        ).numpy()
    )
    for action in actions:
        assert space.contains(action.astype(np.int64) if isinstance(space, spaces.Discrete) else action), action


def test_discrete_actions_reach_every_value() -> None:
    distribution, decode = action_decoder(spaces.MultiDiscrete([2, 3], start=[5, -1]), "Some-v0")
    drawn = decode(
        distribution.sample(torch.zeros(500, 5), distribution.noise((500,), torch.Generator().manual_seed(0))).numpy()
    )
    assert {tuple(row) for row in drawn} == {(a, b) for a in (5, 6) for b in (-1, 0, 1)}


def test_box_actions_are_clipped_here() -> None:
    _, decode = action_decoder(spaces.Box(-1.0, 1.0, (2,), np.float32), "Some-v0")
    np.testing.assert_array_equal(decode(np.array([[-3.0, 0.25]])), np.array([[-1.0, 0.25]], np.float32))


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        ([0.0], [1000.0], "reach from 0 to 1000,"),
        ([-1.0, -0.1], [1.0, 0.1], "reach from -0.1 to 0.1,"),
        ([-np.inf, -8.0], [np.inf, 2.0], "reach from -8 to 2,"),
        ([-5.0, -0.2, 0.0], [1.0, 0.2, 0.0], None),
        ([-np.inf], [np.inf], None),
        ([0.0], [np.inf], None),
    ],
)
def test_bounds_far_from_those_a_policy_begins_in_are_told(low: Any, high: Any, said: str | None) -> None:
    space = spaces.Box(np.array(low, np.float32), np.array(high, np.float32))
    told = describe_scale(space, "Some-v0")
    assert said is None if told is None else said and said in told
    assert describe_scale(spaces.Discrete(1000), "Some-v0", "auto") is None


@pytest.mark.parametrize("env", thinned(4, find_options(CONF / "env")))
def test_no_task_of_ours_is_rescaled_or_warned_of(env: str) -> None:
    if (id := composed(f"env={env}")["env"]["id"]) == "???":
        return
    made = quiet_make(id)
    assert describe_scale(made.action_space, env) is describe_scale(made.action_space, env, "auto") is None
    made.close()


def test_spaces_that_raise_are_told() -> None:
    task = Task("Probe/Disconnected-v0", {}, None, False, False, 10.0, 10.0)
    with pytest.raises(
        ConfigError, match=r"env.id: the spaces of Probe/Disconnected-v0 raise ValueError: not connected"
    ):
        task.make([0])


LARGE = float(np.finfo(np.float32).max)


@pytest.mark.parametrize(
    ("low", "high", "rescale", "decoded"),
    [
        ([0.0], [1000.0], "auto", [[0.0], [0.0], [625.0], [1000.0]]),
        ([0.0], [1000.0], False, [[0.0], [0.0], [0.25], [3.0]]),
        ([-2.0], [2.0], "auto", [[-2.0], [-1.0], [0.25], [2.0]]),
        ([-2.0], [2.0], True, [[-2.0], [-2.0], [0.5], [2.0]]),
        ([0.0, -0.1], [1.0, 0.1], "auto", [[0.0, -0.1], [0.0, -0.1], [0.625, 0.025], [1.0, 0.1]]),
        ([-np.inf, 0.0], [np.inf, 40.0], "auto", [[-7.0, 0.0], [-1.0, 0.0], [0.25, 25.0], [3.0, 40.0]]),
        ([0.0, 0.0], [np.inf, 40.0], "auto", [[0.0, 0.0], [0.0, 0.0], [0.25, 25.0], [3.0, 40.0]]),
        ([-LARGE, 7.0], [LARGE, 7.0], "auto", [[-7.0, 7.0], [-1.0, 7.0], [0.25, 7.0], [3.0, 7.0]]),
        ([-LARGE], [LARGE], "auto", [[-7.0], [-1.0], [0.25], [3.0]]),
    ],
)
def test_actions_are_rescaled_to_bounds_that_are_far(low: Any, high: Any, rescale: Any, decoded: Any) -> None:
    space = spaces.Box(np.array(low, np.float32), np.array(high, np.float32))
    decode = action_decoder(space, "Some-v0", rescale)[1]
    actions = np.repeat(np.array([[-7.0], [-1.0], [0.25], [3.0]], np.float32), len(low), axis=1)
    found = decode(actions)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array(decoded, np.float32))
    np.testing.assert_allclose(decode(encode_actions(space, found, rescale)), found, rtol=1e-6)


@pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.Box(-np.inf, np.inf, (2,)), spaces.Box(0, np.inf, (2,))])
def test_rescaling_what_has_no_bounds_is_refused(space: spaces.Space[Any]) -> None:
    with pytest.raises(ConfigError, match=r"env.rescale_action: got true; no action of Some-v0 has two finite bounds"):
        action_decoder(space, "Some-v0", True)


def test_what_is_rescaled_is_told_range_by_range() -> None:
    low, high = np.array([0, 0, 0, -np.inf, -1, 2, 4]), np.array([1000, 1000, 9, np.inf, 1, 3, 5])
    told = describe_scale(spaces.Box(low, high, dtype=np.float64), "Some-v0", "auto")
    assert told == (
        "actions of Some-v0 are rescaled: -1 to 1 of the policy stands for 0 to 1000 (2 numbers), 0 to 9 (1 number), "
        "-1 to 1 (1 number), 2 other ranges; those without finite bounds are left as they are; "
        "env.rescale_action=false leaves them as they are"
    )
    unbounded = describe_scale(spaces.Box(-LARGE, LARGE, (1,)), "Some-v0", "auto")
    assert unbounded is not None
    assert unbounded.endswith("it may learn nothing: env.wrappers may rescale them")


def test_a_task_with_far_bounds_is_learned_and_a_run_says_why_once(
    trpo_train: Command, trpo_eval: Command, tmp_path: Path
) -> None:
    short = ("plugins=[probes]", "sampler.num_envs=8", "sampler.steps_per_iteration=256", "total_steps=2048")
    short = (*short, "eval.every=0")
    done = trpo_train("env=Probe/Wide-v0", *short, "hydra.run.dir=wide")
    said = "actions of Probe/Wide-v0 are rescaled: -1 to 1 of the policy stands for 0 to 1000 (1 number)"
    assert done.err.count(said) == (tmp_path / "wide" / "train.log").read_text().count(f"WARNING {said}") == 1
    silent = trpo_train("env=Probe/WideRescaled-v0", *short, "hydra.run.dir=wrapped")
    assert "actions of" not in silent.err
    left = trpo_train("env=Probe/Wide-v0", "env.rescale_action=false", *short, "hydra.run.dir=left")
    assert "reach from 0 to 1000, and a policy begins near 0" in left.err
    names = ("wide", "wrapped", "left")
    wide, wrapped, as_it_is = (float(rows(tmp_path / name)[-1]["rollout/recent_return_mean"]) for name in names)
    assert wide == pytest.approx(wrapped, abs=1e-3)  # the wrapper computes in another precision
    assert wide > -0.35
    assert as_it_is < -0.95
    path = tmp_path / "left" / "config.yaml"  # of an earlier version, which rescaled nothing
    path.write_text(path.read_text().replace("  rescale_action: false\n", ""))
    played = trpo_eval("left", "--plugins", "probes", "--json", "played.json")
    assert played.status == 0, played.err
    assert max(json.loads((tmp_path / "played.json").read_text())[0]["returns"]) < -0.95


def test_observations_keep_their_shape_or_are_one_hot() -> None:
    pixels, encode = observation_encoder(spaces.Box(0, 255, (2, 3), np.uint8))
    assert (pixels.shape, pixels.dtype, pixels.stored, pixels.size) == ((2, 3), np.uint8, np.uint8, 6)
    batch = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert encode(batch).dtype == np.uint8
    np.testing.assert_array_equal(encode(batch), batch)
    numbers, encode = observation_encoder(spaces.Box(-1, 1, (3,), np.float32))
    assert (numbers.shape, numbers.dtype, numbers.stored) == ((3,), np.float64, np.float32)
    assert encode(np.zeros((2, 3), dtype=np.float32)).dtype == np.float64
    assert observation_encoder(spaces.Box(-1, 1, (), np.float32))[0].shape == (1,)
    states, encode = observation_encoder(spaces.Discrete(3, start=1))
    assert (states.shape, states.num_states) == ((3,), 3)
    np.testing.assert_array_equal(encode(np.array([1, 3])), np.array([[1, 0, 0], [0, 0, 1]]))


@pytest.mark.parametrize(
    ("space", "what"),
    [
        (spaces.Text(5), r"the observations are Text\("),
        (spaces.Graph(spaces.Box(-1, 1, (1,)), None), r"the observations are Graph\("),
        (spaces.Box(-1, 1, (0,)), r"the observations are Box\(\[\], \[\], \(0,\)"),
        (spaces.Tuple([]), r"the observations are Tuple\("),
        (spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Tuple([spaces.Text(5)])}), r"entry 'b\.0' of .* is Text\("),
        (spaces.Dict({"a": spaces.Sequence(spaces.Discrete(2))}), r"entry 'a' of the observations is Sequence\("),
        (spaces.Tuple([spaces.Discrete(2), spaces.OneOf([spaces.Discrete(2)])]), r"entry '1' of .* is OneOf\("),
    ],
)
def test_other_observations_are_refused_with_what_is_supported(space: spaces.Space[Any], what: str) -> None:
    with pytest.raises(ConfigError, match=rf"env\.id: {what}.*; supported are Box .*\n.*see env\.wrappers"):
        observation_encoder(space)


@pytest.mark.parametrize("space", [spaces.Text(3), spaces.Box(0, 9, (2,), np.int64)], ids=str)
def test_other_actions_are_refused_with_what_is_supported(space: spaces.Space[Any]) -> None:
    with pytest.raises(ConfigError, match=r"Some-v0 are .*supported are Box .*MultiBinary"):
        action_decoder(space, "Some-v0")
