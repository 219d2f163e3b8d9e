"""trpo-eval: several runs in one table, of any checkpoint, for people and for scripts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Command
from scipy import stats

from trpo_cli.play.episodes import Evaluation
from trpo_cli.run.directory import note_failure

SMALL = ("env=CartPole-v1", "sampler.num_envs=2", "sampler.steps_per_iteration=256", "total_steps=1024", "eval.every=0")
SMALL = (*SMALL, "checkpoint.every=1", "algo.delta=0.1")


@pytest.fixture
def sweep(trpo_train: Command, tmp_path: Path) -> Path:
    """Two runs, of seeds 0 and 1."""
    for seed in (0, 1):
        assert trpo_train(*SMALL, f"seed={seed}", f"hydra.run.dir=sweep/run{seed}").status == 0
    return tmp_path / "sweep"


def test_one_broken_run_does_not_lose_the_others(trpo_eval: Command, sweep: Path) -> None:
    shutil.copytree(sweep / "run0", sweep / "broken")
    shutil.rmtree(sweep / "broken" / "checkpoints")
    (sweep / "broken" / "checkpoints").mkdir()
    note_failure(sweep / "early", "algo.delta: got -1")
    done = trpo_eval("sweep", "sweep/run1", "--episodes", "3", "--json", "made/results.json")
    assert done.status == 1
    assert done.err == "error: 2 of 4 could not be evaluated; the table says why"
    lines = done.out.splitlines()[3:]
    assert [line.rpartition(" ")[2] for line in lines[2:]] == ["sweep/run0", "sweep/run1"]
    assert lines[0] == "|    failed | sweep/broken/checkpoints: holds no checkpoint"
    assert lines[1] == "|    failed | sweep/early failed before its first step: algo.delta: got -1"
    assert trpo_eval("sweep/early").err == f"error: {lines[1][14:]}"
    assert trpo_eval("sweep/run0", "sweep/early", "--checkpoint", "7").out.count("\n|    failed | ") == 2
    first, second = json.loads((sweep.parent / "made" / "results.json").read_text())
    assert first["run"] == "sweep/run0"
    assert len(first["returns"]) == len(first["lengths"]) == 3
    assert first["returns"] == first["lengths"]  # of a pole, a step pays 1
    assert f"{np.mean(second['returns']):.2f} |" in lines[3]
    assert trpo_eval("sweep/run0", "--json", "made/results.json").err == (
        "error: --json: made/results.json already exists and is not overwritten"
    )


def test_an_older_checkpoint(trpo_eval: Command, sweep: Path) -> None:
    newest, same, older = (
        trpo_eval("sweep/run0", *which) for which in ((), ("--checkpoint", "1024"), ("--checkpoint", "512"))
    )
    assert newest.out == same.out
    assert " 512 | CartPole-v1, sweep/run0" in older.out
    assert trpo_eval("sweep/run0", "--checkpoint", "7").err == (
        "error: sweep/run0/checkpoints: holds no checkpoint of step 7; available steps: 512, 768, 1024"
    )


def test_the_interval_is_that_of_the_mean() -> None:
    returns = np.random.default_rng(0).normal(3.0, 2.0, 400)
    interval = Evaluation(returns, np.ones(400, np.int64)).interval()
    assert interval is not None
    assert interval == pytest.approx(returns.mean() + 1.96 * returns.std() / 20 * np.array([-1, 1]), abs=0.02)
    five = Evaluation(returns[:5], np.ones(5, np.int64)).interval()
    assert five == pytest.approx(stats.ttest_1samp(returns[:5], 0).confidence_interval())
    assert Evaluation(returns[:4], np.ones(4, np.int64)).interval() is None


def test_of_few_episodes_the_table_shows_min_to_max(trpo_eval: Command, sweep: Path) -> None:
    few, enough, one = (
        trpo_eval("sweep/run0", "--episodes", count, "--json", f"{count}.json").out.splitlines() for count in "451"
    )
    made = json.loads((sweep.parent / "4.json").read_text())[0]
    assert (few[0], few[1].split("|")[2].strip()) == ("likeliest actions, seed 0", "min to max")
    assert few[3].split("|")[2].strip() == f"{min(made['returns']):.2f} to {max(made['returns']):.2f}"
    assert made["interval"] is None
    low, high = json.loads((sweep.parent / "5.json").read_text())[0]["interval"]
    assert [line.split("|")[2].strip() for line in (enough[1], enough[3])] == [
        "95 % interval",
        f"{low:.2f} to {high:.2f}",
    ]
    assert one[3].split("|")[2].strip() == "one episode"


def test_an_error_stands_below_no_table(trpo_eval: Command, sweep: Path) -> None:
    done = trpo_eval("sweep/run0", "--checkpoint", "7")
    assert (done.status, done.out) == (1, "")


def test_the_help_has_single_percent_signs(trpo_eval: Command, trpo_report: Command) -> None:
    for command in (trpo_eval, trpo_report):
        shown = command("--help").out
        assert "95 %" in " ".join(shown.split())
        assert "%%" not in shown
