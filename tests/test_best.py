"""The best checkpoint is kept beside the newest, and a run may end before `total_steps`."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from comparison import assert_same_run, rows
from conftest import Command, after_rows, trained

from trpo_cli.config.settings import StopSettings
from trpo_cli.errors import CheckpointError
from trpo_cli.report.runs import read
from trpo_cli.run import checkpoint
from trpo_cli.run.directory import Run
from trpo_cli.run.progress import Best, Progress
from trpo_cli.run.state import state

SMALL = ("env=CartPole-v1", "sampler.num_envs=4", "sampler.steps_per_iteration=128", "total_steps=1536", "seed=1")
SMALL = (*SMALL, "eval.every=256", "eval.episodes=3", "checkpoint.every=4", "checkpoint.keep=2")
EVALUATION = "eval/episode_return_mean"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that keeps its best checkpoint by evaluation; tests that change it copy it."""
    return trained(tmp_path_factory.mktemp("whole"), *SMALL, "checkpoint.best=eval")


def evaluations(directory: Path) -> list[tuple[int, float]]:
    return [(int(row["env_steps"]), float(row[EVALUATION])) for row in rows(directory) if row[EVALUATION]]


def summary(directory: Path) -> Any:
    return json.loads((directory / "summary.json").read_text())


def kept(directory: Path, folder: str = "checkpoints/best") -> list[int]:
    return list(map(checkpoint.steps_of, checkpoint.list_checkpoints(directory / folder)))


def test_the_best_evaluation_is_kept_and_played(whole: Path, trpo_eval: Command, tmp_path: Path) -> None:
    steps, value = max(evaluations(whole), key=lambda found: found[1])
    assert steps < 1536, "the best is not the last"
    assert summary(whole)["best_checkpoint"] == {"by": "eval", "value": value, "env_steps": steps}
    assert summary(whole)["best_evaluation_return"] == value
    assert kept(whole)[-1] == steps
    assert len(kept(whole, "checkpoints")) == 2
    shutil.copytree(whole, tmp_path / "run")
    options = ("--episodes", "3", "--seed", "1", "--json")
    for chosen in ("best", str(steps)):
        assert trpo_eval("run", "--checkpoint", chosen, *options, f"{chosen}.json").status == 0
        [played] = json.loads((tmp_path / f"{chosen}.json").read_text())
        assert (played["env_steps"], played[EVALUATION]) == (steps, value)
    assert "1,536 | CartPole-v1" in trpo_eval("run", "--checkpoint", "newest").out


def test_a_run_that_kept_none_says_so(trpo_train: Command, trpo_eval: Command) -> None:
    assert trpo_train(*SMALL, "total_steps=128", "hydra.run.dir=run").status == 0
    refused = trpo_eval("run", "--checkpoint", "best")
    assert refused.err == (
        "error: run/checkpoints: no best checkpoint was kept; train with checkpoint.best=eval or checkpoint.best=train"
    )
    assert "'bset' is not a whole number; newest, best or a number" in trpo_eval("run", "--checkpoint", "bset").err


def test_a_headline_of_another_name_decides_too(trpo_train: Command, tmp_path: Path) -> None:
    exact = ("env=FrozenLake-v1", "algo=monotone_pi", "total_steps=7", "checkpoint.every=2", "eval.every=0")
    done = trpo_train(*exact, "checkpoint.best=train", "hydra.run.dir=run")
    best = summary(tmp_path / "run")["best_checkpoint"]
    last = rows(tmp_path / "run")[-1]
    assert best == {"by": "train", "value": float(last["exact/return"]), "env_steps": 7}
    assert "best checkpoint: exact/return " in done.out


def test_the_best_before_stays_until_no_checkpoint_refers_to_it(tmp_path: Path) -> None:
    with Run(tmp_path) as run:
        (tmp_path / "checkpoints").mkdir()
        for steps, best in ((1, True), (2, False), (3, True), (4, False), (5, True)):
            run.save({"progress": {}}, steps, 2, best)
        assert kept(tmp_path, "checkpoints") == [4, 5]
        assert kept(tmp_path) == [3, 5], "4 refers to 3"
        run.save({"progress": {}}, 6, 2)
        assert kept(tmp_path) == [5]
        (tmp_path / "checkpoints" / "step_000000000006.safetensors").write_bytes(b"damaged")
        (tmp_path / "checkpoints" / "step_000000000005.safetensors").unlink()
        run.save({"progress": {}}, 4, 2)
        assert run.load() is not None
        assert kept(tmp_path) == [], "what lies after the checkpoint that is resumed is no longer the best"


def test_a_failed_copy_leaves_the_run_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with Run(tmp_path) as run:
        (tmp_path / "checkpoints").mkdir()
        run.save({"progress": {}}, 1, 1, True)
        monkeypatch.setattr("trpo_cli.run.durable.write", fail)
        with pytest.raises(CheckpointError, match=r"best/step_000000000002.safetensors: cannot be saved"):
            run.save({"progress": {}}, 2, 1, True)
    assert (kept(tmp_path), kept(tmp_path, "checkpoints")) == ([1], [1])


@pytest.mark.parametrize(
    ("change", "said"),
    [("checkpoint.best=train", "was chosen by eval and is now chosen by train"), ("gone", "is gone; the next one")],
)
def test_another_search_for_the_best_is_announced(
    trpo_train: Command, whole: Path, tmp_path: Path, change: str, said: str
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    if change == "gone":
        shutil.rmtree(tmp_path / "run" / "checkpoints" / "best")
    words = () if change == "gone" else (change,)
    resumed = trpo_train("resume=run", "total_steps=2048", *words)
    assert resumed.status == 0, resumed.err
    assert said in resumed.err
    assert summary(tmp_path / "run")["best_checkpoint"]["env_steps"] > 1536


def test_an_early_end_is_an_end(trpo_train: Command, whole: Path, tmp_path: Path) -> None:
    """It can be asked for again, and going on from it leads where a run without it would have come."""
    steps, value = next(found for found in evaluations(whole) if found[1] > evaluations(whole)[0][1])
    command = (*SMALL, "checkpoint.best=eval", f"stop.at_return={value}", "hydra.run.dir=run", "resume=auto")
    ended = trpo_train(*command)
    assert ended.status == 0, ended.err
    assert f"ended early by stop.at_return={value:.5g}: a return of {value:.5g} reached it" in ended.out
    assert "INFO ended early by stop.at_return" in (tmp_path / "run" / "train.log").read_text()
    stopped = {"by": "stop.at_return", "given": value, "reached": value, "env_steps": steps}
    assert summary(tmp_path / "run")["stopped"] == stopped
    assert (state(tmp_path / "run").status, read(tmp_path / "run").status) == ("finished", "finished")
    assert read(tmp_path / "run").note.startswith("ended early by stop.at_return")
    for again in (command, ("resume=run",), ("resume=run", "total_steps=9999")):
        told = trpo_train(*again)
        assert told.status == 0
        assert f"run is finished, after {steps} steps; stop.at_return" in told.out
        typed = "total_steps=9_999 " if again[-1] == "total_steps=9999" else ""
        assert f"resume=run {typed}stop.at_return=null" in told.out
    assert trpo_train("resume=run", "stop.at_return=null").status == 0
    assert summary(tmp_path / "run")["stopped"] is None
    assert_same_run(whole, tmp_path / "run")


def test_patience_survives_being_stopped(trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patient = (
        *SMALL,
        "total_steps=100_000",
        "env.max_episode_steps=10",
        "stop.patience=3",
    )  # ten steps are soon played
    assert trpo_train(*patient, "hydra.run.dir=whole").status == 0
    found = evaluations(tmp_path / "whole")
    best = max(value for _, value in found)
    assert [value for _, value in found].index(best) == len(found) - 4
    stopped = summary(tmp_path / "whole")["stopped"]
    assert stopped == {"by": "stop.patience", "given": 3, "reached": best, "env_steps": found[-1][0]}
    with monkeypatch.context() as patch:
        after_rows(patch, len(rows(tmp_path / "whole")) - 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert trpo_train(*patient, "hydra.run.dir=parts").status == 143
    assert trpo_train("resume=parts").status == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_training_return_is_that_of_a_hundred_episodes() -> None:
    metrics = {"rollout/episode_return_mean": 50.0, EVALUATION: None}
    few, enough, exact = Progress(), Progress(), Progress()
    few.note(10, {**metrics, "rollout/episodes": 99.0}, "rollout/episode_return_mean")
    enough.note(10, {**metrics, "rollout/episodes": 100.0}, "rollout/episode_return_mean")
    exact.note(10, {**metrics, "exact/return": 50.0}, "exact/return")
    stop = StopSettings(at_return=50.0)
    assert few.find_end(stop, evaluated=False) is None
    assert enough.find_end(stop, evaluated=False) == exact.find_end(stop, evaluated=False)
    assert exact.find_end(stop, evaluated=False) is not None
    assert enough.find_end(stop, evaluated=True) is None


def test_a_number_that_is_none_is_never_the_best() -> None:
    progress = Progress()
    progress.note(10, {"a": float("nan"), EVALUATION: float("nan")}, "a")
    assert not progress.note_best("eval")
    assert not progress.note_best("train")
    assert (progress.best, progress.best_evaluation_return, progress.stale_evaluations) == (Best(), None, 1)


def test_a_job_that_ended_early_is_done(trpo_train: Command, tmp_path: Path) -> None:
    sweep = ("-m", *SMALL, "seed=0,1", "stop.at_return=9")
    done = trpo_train(*sweep, "hydra.sweep.dir=sweep")
    assert done.status == 0, done.err
    assert done.out.count("ended early by stop.at_return") == 2
    logs = {path: path.read_text() for path in tmp_path.glob("sweep/*/train.log")}
    assert trpo_train(*sweep, "sweep.resume=sweep").status == 0
    assert {path: path.read_text() for path in logs} == logs
    further = trpo_train(*sweep[:-1], "stop.at_return=null", "sweep.resume=sweep")
    assert further.status == 0, further.err
    assert further.out.count("1,536 ") == 2


MISTAKES = {
    (
        "checkpoint.best=eval",
        "eval.every=0",
    ): "checkpoint.best=eval: needs evaluations, and eval.every=0 turns them off",
    ("stop.patience=2", "eval.every=0"): "stop.patience: needs evaluations, and eval.every=0 turns them off",
    ("checkpoint.best=test",): "checkpoint.best: got 'test'; it should be 'eval' or 'train'",
    ("stop.patience=0",): "stop.patience: got 0; it should be greater than or equal to 1",
    ("stop.at_return=high",): "stop.at_return: got 'high'; it should be a valid number",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes(words: tuple[str, ...], trpo_train: Command, tmp_path: Path) -> None:
    refused = trpo_train(*SMALL, *words, "hydra.run.dir=run")
    assert refused.status == 1
    assert MISTAKES[words] in refused.err
    assert not (tmp_path / "run").exists()
