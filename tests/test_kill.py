"""SIGKILL to the real command, and a comparison bit for bit; `kill.py` says how."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

import kill
import pytest


@pytest.mark.parametrize(
    "calls", [kill.CALLS[1::3], pytest.param(kill.CALLS, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_inside_every_call_of_a_save_and_in_between(tmp_path: Path, calls: Sequence[str]) -> None:
    overrides = ("env=CartPole-v1", "total_steps=4096", *kill.TRPO, "checkpoint.best=train")
    assert kill.ended(kill.command(*overrides, f"hydra.run.dir={tmp_path / 'whole'}"))[0] == 0
    killed = (*overrides, "resume=auto", f"hydra.run.dir={tmp_path / 'killed'}")
    for call in calls:
        status, errors = kill.ended(kill.command(*killed, rigged=(call, 3)))
        assert status == -signal.SIGKILL, f"{call}: {errors}"
    assert kill.ended(kill.command(*killed))[0] == 0
    kill.assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.parametrize("name", kill.CASES)
def test_at_random_instants(tmp_path: Path, name: str) -> None:
    assert kill.case(name, kill.KILLS, tmp_path, seed=1).kills == kill.KILLS
