"""POPGym by its own ids: registered when asked for, with a memory, and resumed exactly."""

from __future__ import annotations

import importlib.util
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparison import assert_same_run
from conftest import Command, after_rows, built, thinned
from exactness import exactly

from trpo_cli.envs import games
from trpo_cli.envs.registered import registered_ids
from trpo_cli.errors import CheckpointError
from trpo_cli.parts import Parts
from trpo_cli.run import packing

INSTALLED = importlib.util.find_spec("popgym") is not None
pytestmark = pytest.mark.skipif(not INSTALLED, reason="needs trpo-cli[popgym]")
LEVELS = ("Easy", "Medium", "Hard")
TASKS = (
    *("Autoencode", "Battleship", "Concentration", "CountRecall", "HigherLower", "MineSweeper", "MultiarmedBandit"),
    *("NoisyPositionOnlyCartPole", "NoisyPositionOnlyPendulum", "PositionOnlyCartPole", "PositionOnlyPendulum"),
    *("RepeatFirst", "RepeatPrevious", "VelocityOnlyCartpole"),
)
SMALL = ("sampler.num_envs=2", "sampler.steps_per_iteration=64", "critic.minibatch_size=32", "eval.every=0")
REPEAT = ("env=popgym-RepeatPreviousEasy-v0", *SMALL)


@pytest.mark.parametrize(("task", "level"), thinned(11, TASKS, LEVELS))
def test_every_task_is_learnt_from_with_a_memory(task: str, level: str) -> None:
    parts = built(f"env=popgym-{task}{level}-v0", *SMALL)
    assert parts.policy.memory_size == 128
    for _ in range(2):
        parts.iterate(0.0)
    assert np.isfinite(parts.environments[0].observation).all()
    assert parts.obstacle is None


@pytest.mark.parametrize(("task", "level"), thinned(11, TASKS, LEVELS))
def test_every_task_goes_on_from_a_file_bit_for_bit(task: str, level: str) -> None:
    """Also in new environments, which have played something else."""
    first, other = (built(f"env=popgym-{task}{level}-v0", f"seed={seed}", *SMALL) for seed in (0, 1))
    for parts in (first, other):
        stepped(parts, drawn(parts))
    other.load_state_dict(packing.unpack(packing.pack({"state": first.state_dict()}))["state"])
    for _ in range(120):
        action = drawn(first)
        assert exactly(stepped(first, action), stepped(other, action))


def stepped(parts: Parts, action: Any) -> Any:
    """What a step brings; episodes that end with it begin anew."""
    environments = parts.environments[0]
    told = environments.step(action)
    if (ended := told[2] | told[3]).any():
        environments.restart(ended)
    return *told, environments.observation.copy()


def drawn(parts: Parts) -> Any:
    """Actions for both environments, always the same ones."""
    parameters = torch.zeros(2, parts.policy.distribution.network_size)
    generator = torch.Generator().manual_seed(int(parts.environments[0].observation.sum()))
    noise = parts.policy.distribution.noise((2,), generator)
    if parts.policy.log_std is not None:
        parameters = torch.cat([parameters, parameters], 1)
    return parts.policy.distribution.sample(parameters, noise).numpy()


def test_a_damaged_member_of_an_enumeration_is_refused() -> None:
    parts = built("env=popgym-AutoencodeEasy-v0", *SMALL)
    state = parts.environments[0].state_dict()
    assert "WATCH" in repr(state)
    with pytest.raises(CheckpointError, match=r"AutoencodeEasy\.mode"):
        parts.environments[0].load_state_dict(_renamed(state))
    parts.environments[0].load_state_dict(state)


def _renamed(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: "nonsense" if key == "__member__" else _renamed(value) for key, value in state.items()}
    return [_renamed(value) for value in state] if isinstance(state, list) else state


def test_a_missing_package_and_a_misspelt_task(trpo_train: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "did you mean 'popgym-RepeatPreviousEasy-v0'?" in trpo_train("env=popgym-RepeatPreviusEasy-v0").err
    assert {f"popgym-{task}{level}-v0" for task in TASKS for level in LEVELS} <= {*registered_ids()}
    monkeypatch.setattr(games.Games, "is_installed", False)
    assert "pip install 'trpo-cli[popgym]' installs it" in trpo_train(*REPEAT).err


def test_a_run_says_what_it_chose_and_goes_on_bit_for_bit(
    trpo_train: Command, trpo_eval: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "policy=gru and critic=gru, because popgym-RepeatPreviousEasy-v0 shows only a part of its state"
    whole = trpo_train(*REPEAT, "total_steps=320", "hydra.run.dir=whole")
    assert whole.status == 0
    assert said in whole.err
    assert "remembers nothing" in whole.err
    with monkeypatch.context() as patch:
        after_rows(patch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert trpo_train(*REPEAT, "total_steps=320", "hydra.run.dir=parts").status == 143
    assert trpo_train("resume=parts").status == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert trpo_eval("whole", "--episodes", "2").status == 0
