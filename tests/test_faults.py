"""What goes wrong around a run: survived and counted, or ended with a clear error; no checkpoint is ever lost."""

from __future__ import annotations

import csv
import errno
import logging
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comparison import rows
from conftest import Command, after_rows

from trpo_cli.run import checkpoint
from trpo_cli.run.directory import LogFile
from trpo_cli.run.tensorboard import TensorBoard

SMALL = (
    "sampler.num_envs=2",
    "sampler.steps_per_iteration=64",
    "total_steps=640",
    "eval.every=0",
    "checkpoint.every=1",
)
SMALL = (*SMALL, "hydra.run.dir=run")
PROBE = ("plugins=[probes]", "env=gym", *SMALL)


def once(fault: str, marker: Path) -> tuple[str, ...]:
    return (*PROBE, "env.id=Probe/Once-v0", f"env.kwargs={{fault: '{fault}', marker: '{marker}'}}")


def assert_finite_checkpoint(directory: Path) -> None:
    state = checkpoint.load_newest(directory / "checkpoints").state
    for part in ("policy", "critic"):
        tensors = [value for value in state[part].values() if isinstance(value, torch.Tensor)]
        assert tensors
        assert all(tensor.isfinite().all() for tensor in tensors)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("raise", "raised at step 40 of environment 0: RuntimeError: the simulator fell over"),
        ("nan", "reward is not finite at step 40 of environment 0: nan"),
        ("-inf", "reward is not finite at step 40 of environment 0: -inf"),
        ("1e39", "reward is not finite at step 40 of environment 0: 1e+39"),
    ],
)
def test_a_sample_is_dropped_and_counted(trpo_train: Command, tmp_path: Path, fault: str, said: str) -> None:
    done = trpo_train(*once(fault, tmp_path / "marker"))
    assert done.status == 0
    assert f"Probe/Once-v0{': ' if 'finite' in said else ' '}{said}; its sample is dropped" in done.err
    assert said in (tmp_path / "run" / "train.log").read_text()
    assert [row["rollout/faults"] for row in rows(tmp_path / "run")] == ["0"] + ["1"] * 9
    steps = [int(row["env_steps"]) for row in rows(tmp_path / "run")]
    assert steps[:2] == [64, 64 + 14 + 64]  # the 7 whole steps of both environments that were dropped count
    assert_finite_checkpoint(tmp_path / "run")


@pytest.mark.parametrize(
    ("fault", "said"),
    [("die", "worker process 0 was killed by signal 9"), ("hang", "worker process 0 gave no answer within 1 s")],
)
def test_a_worker_is_replaced(trpo_train: Command, tmp_path: Path, fault: str, said: str) -> None:
    workers = ("sampler.vectorization=async", "env.step_timeout=1.0", "sampler.num_envs=1")
    done = trpo_train(*once(fault, tmp_path / "marker"), *workers)
    assert done.status == 0, done.err
    assert said in done.err
    assert rows(tmp_path / "run")[-1]["rollout/faults"] == "1"


@pytest.mark.parametrize("row", [3, 10])
def test_a_worker_that_dies_before_a_save_is_replaced(
    trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: int
) -> None:
    others = set(multiprocessing.active_children())  # of other tests

    def kill() -> None:
        (worker,) = set(multiprocessing.active_children()) - others
        worker.kill()
        worker.join()

    after_rows(monkeypatch, row, kill)
    done = trpo_train("env=CartPole-v1", *SMALL, "sampler.num_envs=1", "sampler.vectorization=async")
    assert done.status == 0, done.err
    assert "was killed by signal 9" in done.err
    assert len(rows(tmp_path / "run")) == 10
    assert checkpoint.load_newest(tmp_path / "run" / "checkpoints").state["progress"]["faults"] == 1


@pytest.mark.parametrize("after", [-1, 100])
def test_what_cannot_be_saved_is_reset(
    trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Whether that is known at the beginning, or comes up on the way."""
    opaque = (*PROBE, "env.id=Probe/Opaque-v0", f"env.kwargs={{after: {after}}}")
    with monkeypatch.context() as patch:
        after_rows(patch, 6, lambda: os.kill(os.getpid(), signal.SIGTERM))
        stopped = trpo_train(*opaque)
    assert stopped.status == 143
    said = (
        "a resume will not be exact, and resets the environments: Opaque.secret holds object, which is not plain data"
    )
    assert stopped.err.count(said) == 1
    assert trpo_train("resume=run", "plugins=[probes]").status == 0
    assert "this resume is not exact: the environments were reset" in (tmp_path / "run" / "train.log").read_text()
    assert [row["rollout/inexact_resumes"] for row in rows(tmp_path / "run")] == ["0"] * 6 + ["1"] * 4


def test_faults_without_end_end_the_run(trpo_train: Command, tmp_path: Path) -> None:
    faulty = ("env.id=Probe/Faulty-v0", "env.kwargs={fault: reward, after: 30}", "fault_patience=2")
    done = trpo_train(*PROBE, *faulty)
    assert done.status == 1
    assert done.err.count("its sample is dropped") == 2
    assert (
        "this is one more fault in a row than fault_patience=2 allows; the checkpoint of step 0 is intact" in done.err
    )
    assert_finite_checkpoint(tmp_path / "run")


def test_faults_with_progress_in_between_do_not(trpo_train: Command, tmp_path: Path) -> None:
    faulty = ("env.id=Probe/Faulty-v0", "env.kwargs={fault: reward, after: 50}", "fault_patience=1")
    assert trpo_train(*PROBE, *faulty).status == 0
    assert int(rows(tmp_path / "run")[-1]["rollout/faults"]) > 2


def test_an_evaluation_is_left_out(trpo_train: Command, tmp_path: Path) -> None:
    once_later = (
        *once("nan", tmp_path / "marker"),
        "sampler.steps_per_iteration=32",
        "eval.every=32",
        "eval.episodes=800",
    )
    done = trpo_train(*once_later, "total_steps=64")
    assert done.status == 0
    assert "this evaluation is skipped" in done.err
    first, second = rows(tmp_path / "run")
    assert (first["eval/episode_return_mean"], first["rollout/faults"]) == ("", "1")
    assert (second["eval/episode_return_mean"] != "", second["rollout/faults"]) == (True, "1")


def failing(number: int) -> Callable[..., Any]:
    def fail(*arguments: Any, **keywords: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, *(pytest.param(n, marks=pytest.mark.slow) for n in (errno.EROFS, errno.EIO, errno.EDQUOT))]
)
@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_checkpoint_that_cannot_be_saved_ends_the_run(
    trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    with monkeypatch.context() as patch:
        after_rows(patch, 3, lambda: patch.setattr(checkpoint.os, call, failing(number)))
        done = trpo_train("env=CartPole-v1", *SMALL)
    assert done.status == 1
    assert os.strerror(number) in done.err
    assert trpo_train("resume=run").status == 0
    assert len(rows(tmp_path / "run")) == 10


def test_a_directory_that_is_deleted_ends_the_run(
    trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_rows(monkeypatch, 3, lambda: shutil.rmtree(tmp_path / "run", ignore_errors=True))
    done = trpo_train("env=CartPole-v1", *SMALL, "checkpoint.every=100")
    assert done.status == 1
    assert "metrics.csv: cannot be written: No such file or directory" in done.err


def test_a_replaced_file_ends_the_run(trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace() -> None:
        path = tmp_path / "run" / "metrics.csv"
        path.rename(path.with_name("other.csv"))
        path.write_text("")

    after_rows(monkeypatch, 3, replace)
    done = trpo_train("env=CartPole-v1", *SMALL)
    assert done.status == 1
    assert "it was replaced by another file" in done.err


@pytest.mark.parametrize("log", ["metrics.csv", "tensorboard", "train.log"])
def test_a_log_that_cannot_be_written_ends_the_run(
    trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: str
) -> None:
    target: dict[str, tuple[Any, str]] = {
        "metrics.csv": (csv.DictWriter, "writerow"),
        "tensorboard": (TensorBoard, "write"),
        "train.log": (LogFile, "emit"),
    }

    def fill_up() -> None:
        monkeypatch.setattr(*target[log], failing(errno.ENOSPC))
        logging.getLogger("trpo_cli").warning("something to tell")

    after_rows(monkeypatch, 3, fill_up)
    done = trpo_train("env=CartPole-v1", *SMALL)
    assert done.status == 1
    assert "No space left on device" in done.err
    assert_finite_checkpoint(tmp_path / "run")
