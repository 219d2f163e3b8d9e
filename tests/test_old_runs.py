"""Runs that earlier revisions made, kept in `old_runs/`, are still read: evaluated, reported and resumed exactly."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from conftest import TESTS, Command

from trpo_cli.run import checkpoint

OLD = TESTS / "old_runs"
RUNS = sorted(path.name for path in OLD.iterdir())
PLUGIN = "old_pictures"  # which registers the environment of one of them


@pytest.fixture(params=RUNS)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of an old run."""
    return Path(shutil.copytree(OLD / request.param, tmp_path / "run"))


def test_an_old_run_is_evaluated_and_reported(old: Path, trpo_eval: Command, trpo_report: Command) -> None:
    played = trpo_eval("run", "--episodes", "2", "--json", "played.json", "--plugins", PLUGIN)
    assert played.status == 0, played.err
    assert json.loads((old.parent / "played.json").read_text())[0]["returns"]
    reported = trpo_report("run", "--out", "report")
    assert reported.status == 0, reported.err
    assert json.loads((old / "summary.json").read_text())["env_steps"] > 0


def test_statistics_that_a_checkpoint_lacks_are_missed(tmp_path: Path, trpo_train: Command) -> None:
    run = Path(shutil.copytree(OLD / "trpo", tmp_path / "run"))
    (path,) = checkpoint.list_checkpoints(run / "checkpoints")
    state = checkpoint.load(path)
    del state["sampler"]["normalizer"]
    path.unlink()
    checkpoint.save(path, state)
    refused = trpo_train("resume=run", "total_steps=512")
    assert refused.status == 1
    assert "the checkpoint does not match config.yaml: KeyError: 'normalizer'" in refused.err


def test_a_key_that_an_old_run_lacks_keeps_what_was_the_case(tmp_path: Path, trpo_train: Command) -> None:
    shutil.copytree(OLD / "trpo", tmp_path / "run")
    typed = ("seed=3", "policy.hidden_sizes=[4]", "critic.hidden_sizes=[4]", "sampler.num_envs=2", "checkpoint.keep=1")
    typed = (
        *typed,
        "sampler.steps_per_iteration=64",
        "algo.delta=0.04",
        "algo.schedule.delta=linear",
        "total_steps=320",
    )
    for key in ("env.stack=2", "env.rescale_action=false"):
        refused = trpo_train("resume=run", key)
        assert refused.status == 1
        assert f"{key.partition('=')[0]}: saved null, given" in refused.err
    again = trpo_train("resume=auto", "hydra.run.dir=run", "env.stack=1", *typed)
    assert again.status == 0, again.err
    assert "rescale_action" not in (tmp_path / "run" / "config.yaml").read_text()


def test_an_old_run_goes_on_exactly(old: Path, trpo_train: Command) -> None:
    before = (old / "metrics.csv").read_text()
    steps = json.loads((old / "summary.json").read_text())["env_steps"]
    resumed = trpo_train("resume=run", f"total_steps={2 * steps}", f"plugins=[{PLUGIN}]")
    assert resumed.status == 0, resumed.err
    summary = json.loads((old / "summary.json").read_text())
    assert summary["env_steps"] >= 2 * steps
    assert summary["inexact_resumes"] == 0
    after = (old / "metrics.csv").read_text()
    assert after.startswith(before)
    assert len(list(csv.DictReader(after.splitlines()))) > len(list(csv.DictReader(before.splitlines())))
