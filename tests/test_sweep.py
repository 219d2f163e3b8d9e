"""Sweeps: every job comes to its end, whatever becomes of the others, and what is missing is run once more."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from comparison import assert_same_run, saved
from conftest import Command, after_rows
from exactness import exactly

from trpo_cli.errors import ConfigError, RunDirectoryError
from trpo_cli.run import checkpoint
from trpo_cli.run.layout import SWEEP
from trpo_cli.run.lock import Lock
from trpo_cli.run.signals import Stopped, StopRequest
from trpo_cli.run.state import State, state
from trpo_cli.sweep.campaign import Campaign
from trpo_cli.sweep.job import Job, make_jobs, with_sweep_directory
from trpo_cli.sweep.status import Status

SMALL = ("env=CartPole-v1", "total_steps=256", "sampler.num_envs=2", "sampler.steps_per_iteration=64", "eval.every=0")
FAULTY = ("plugins=[probes]", "env=gym", "env.id=Probe/Faulty-v0", *SMALL[1:], "fault_patience=0")
COMMAND = [sys.executable, "-c", "from trpo_cli.train import main; main()"]


def statuses(sweep: Path) -> dict[str, dict[str, Any]]:
    content = json.loads((sweep / SWEEP).read_text())
    return {job["name"]: job for job in content["jobs"]}


def test_a_job_that_fails_stops_no_other(trpo_train: Command, tmp_path: Path) -> None:
    faults = "env.kwargs={fault: reward, after: 100},{fault: reward, after: 9999}"
    done = trpo_train("-m", *FAULTY, faults, "algo=trpo,nonsense", "algo.gamma=0.9,7", "hydra.sweep.dir=sweep")
    assert done.status == 1
    assert "error: 7 of 8 jobs failed" in done.err
    assert "Error executing job" not in done.err
    found = statuses(tmp_path / "sweep")
    assert [job["status"] for job in found.values()].count("finished") == 1
    errors = [job["error"] for job in found.values()]
    assert sum("reward is not finite" in (error or "") for error in errors) == 1
    assert sum("algo.gamma: got 7" in (error or "") for error in errors) == 2
    assert sum("no option 'nonsense'" in (error or "") for error in errors) == 4
    for name, job in found.items():
        directory = tmp_path / "sweep" / job["directory"]
        assert name in done.out
        assert (directory / "summary.json").exists() is (job["status"] == "finished")
        if job["error"]:
            assert job["error"] in (directory / "train.log").read_text()
        if "not finite" in (job["error"] or ""):
            assert "Traceback" in (directory / "train.log").read_text()


def test_what_was_stopped_is_continued_and_what_is_done_is_left(
    trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = ("-m", *SMALL, "seed=0,1,2", "checkpoint.every=1")
    assert trpo_train(*sweep, "hydra.sweep.dir=whole").status == 0
    with monkeypatch.context() as patch:
        after_rows(patch, 6, lambda: os.kill(os.getpid(), signal.SIGTERM))
        stopped = trpo_train(*sweep, "hydra.sweep.dir=parts")
    assert stopped.status == 143
    assert f"trpo-train {' '.join(sweep)} sweep.resume=parts" in stopped.out
    assert [job["status"] for job in statuses(tmp_path / "parts").values()] == ["finished", "stopped", "waiting"]
    first = (tmp_path / "parts" / next(iter(statuses(tmp_path / "parts"))) / "summary.json").stat().st_mtime_ns
    assert trpo_train(*sweep, "sweep.resume=parts").status == 0
    for name, job in statuses(tmp_path / "parts").items():
        assert job["status"] == "finished"
        assert_same_run(tmp_path / "parts" / name, tmp_path / "whole" / name)
    assert (tmp_path / "parts" / next(iter(statuses(tmp_path / "parts"))) / "summary.json").stat().st_mtime_ns == first
    more = trpo_train("-m", *SMALL, "seed=0,3", "total_steps=320", "sweep.resume=parts")
    assert more.status == 0, more.err
    ends = [(name[-1], job["env_steps"]) for name, job in statuses(tmp_path / "parts").items()]
    assert ends == [("1", 256), ("2", 256), ("0", 320), ("3", 320)]  # what was not asked for is not forgotten


def test_a_finished_job_of_another_configuration_is_no_success(trpo_train: Command, tmp_path: Path) -> None:
    for gamma in ("0.9", "0.8"):
        (tmp_path / "mine" / "env").mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / "algo").mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / "algo" / "own.yaml").write_text(f"defaults: [trpo, _self_]\ngamma: {gamma}\n")
        where = "hydra.sweep.dir=sweep" if gamma == "0.9" else "sweep.resume=sweep"
        done = trpo_train("-m", "--config-dir", "mine", *SMALL, "algo=own", "seed=0", where)
    assert done.status == 1
    assert "algo.gamma: saved 0.9, given 0.8" in done.err
    [job] = statuses(tmp_path / "sweep").values()
    assert (job["status"], job["env_steps"]) == ("failed", 256)
    assert job["final_training_return"] > 0  # what it had reached is still known


def test_a_sweep_is_never_mixed_with_another(trpo_train: Command, tmp_path: Path) -> None:
    assert trpo_train("-m", *SMALL, "seed=0", "hydra.sweep.dir=sweep").status == 0
    again = trpo_train("-m", *SMALL, "seed=1", "hydra.sweep.dir=sweep")
    assert "sweep already holds a sweep: sweep.resume=sweep continues it" in again.err
    lock = Lock(tmp_path / "sweep" / ".lock")
    assert "is being written to by process" in trpo_train("-m", *SMALL, "seed=1", "sweep.resume=sweep").err
    lock.release()
    alone = trpo_train(*SMALL, "sweep.dry_run=true")
    assert alone.err.startswith("error: sweep.dry_run: applies to sweeps only; add -m (--multirun) to run one")
    assert not (tmp_path / "runs").exists()
    assert "sweep.dry_run: got 'no'" in trpo_train("-m", *SMALL, "sweep.dry_run=no").err
    assert (
        "subdir: cannot be set, since the jobs of a sweep are named"
        in trpo_train("-m", *SMALL, "hydra.sweep.subdir=x").err
    )
    assert "max_batch_size: got -1; give a number" in trpo_train("-m", *SMALL, "hydra.sweeper.max_batch_size=-1").err
    assert "total_steps: got 'nine'" in trpo_train("-m", *SMALL, "seed=0", "total_steps=nine", "sweep.resume=sweep").out


def test_a_sweep_is_continued_wherever_it_lies(trpo_train: Command, tmp_path: Path) -> None:
    name = "a=b, it's"
    assert trpo_train("-m", *SMALL, "seed=0", f'hydra.sweep.dir="{name}"').status == 0
    more = trpo_train("-m", *SMALL, "seed=0,1", f"sweep.resume={name}")
    assert more.status == 0, more.err
    assert [job["status"] for job in statuses(tmp_path / name).values()] == ["finished", "finished"]


def test_jobs_that_were_cut_off_are_launched_again(
    trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that were to be extended too, whose summary is of an earlier end."""
    assert trpo_train("-m", *SMALL, "seed=0,1", "hydra.sweep.dir=sweep").status == 0
    launch, broken = Campaign._launch, iter([True])

    def breaking(self: Campaign, missing: Sequence[Job]) -> None:
        if next(broken, False):
            launch(self, missing[:1])
            raise RuntimeError("a worker was killed")
        assert len(missing) == 1
        launch(self, missing)

    monkeypatch.setattr(Campaign, "_launch", breaking)
    done = trpo_train("-m", *SMALL, "seed=0,1", "total_steps=320", "sweep.resume=sweep")
    assert done.status == 0, done.err
    assert "relaunching jobs that were cut off: RuntimeError: a worker was killed" in done.err
    assert [job["env_steps"] for job in statuses(tmp_path / "sweep").values()] == [320, 320]


def test_a_job_that_another_process_is_at_is_no_success(trpo_train: Command, tmp_path: Path) -> None:
    lock = Lock(make(make(tmp_path / "sweep") / "seed=0") / ".lock")
    done = trpo_train("-m", "experiment=large_batch", "seed=0", "hydra.sweep.dir=sweep")
    lock.release()
    assert done.status == 1
    assert "1 of 1 jobs have not finished. To resume them:\n  trpo-train -m" in done.err


def test_who_launches_and_who_looks_on_write_one_after_the_other(tmp_path: Path) -> None:
    status = Status(tmp_path, "trpo-train -m")
    status.add([Job("job", (), tmp_path / "job")])
    ticks = itertools.count()
    status.state = lambda job: State("waiting", next(ticks))  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as pool:
        for look in [pool.submit(status.refresh) for _ in range(50)]:
            look.result()


def test_a_dry_run_builds_every_job_and_writes_nothing(trpo_train: Command, tmp_path: Path) -> None:
    done = trpo_train("-m", *SMALL, "policy.hidden_sizes=[8],[0]", "sweep.dry_run=true")
    assert done.status == 1
    assert "waiting" in done.out
    assert "policy.hidden_sizes[0]: got [0]" in done.out
    assert "1 of 2 jobs cannot start" in done.err
    done = trpo_train("-m", *SMALL, "logger=wandb", "logger.mode=of", "sweep.dry_run=true")
    assert "logger.mode: got 'of'" in done.out
    done = trpo_train("-m", *SMALL, "seed=0,1", "sweep.dry_run=true")
    assert done.status == 0
    assert "2 jobs can start; nothing was run" in done.out
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_goes_on_with_its_command_alone(trpo_train: Command, tmp_path: Path) -> None:
    assert trpo_train("-m", *SMALL, "seed=0", "hydra.sweep.dir=sweep").status == 0
    before = (tmp_path / "sweep" / SWEEP).read_bytes()
    for words in (("-m", "sweep.resume=sweep"), ("-m", "total_steps=512", "sweep.resume=sweep")):
        refused = trpo_train(*words)
        assert refused.status == 1
        assert f"and add it to that:\n  trpo-train -m {' '.join(SMALL)} seed=0 sweep.resume=" in refused.err
    assert (tmp_path / "sweep" / SWEEP).read_bytes() == before
    for words in (("resume=sweep",), ("-m", "resume=sweep")):
        assert "holds a sweep: its command continues it with sweep.resume=sweep" in trpo_train(*words).err
    assert "did you mean 'sweep'?" in trpo_train("resume=swep").err
    dry = trpo_train("-m", *SMALL, "seed=0,1", "sweep.resume=sweep", "sweep.dry_run=true")
    assert "1 jobs can start, 1 are finished; nothing was run" in dry.out


def test_mistakes_are_found_before_the_first_job(
    trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    monkeypatch.setattr("trpo_cli.sweep.campaign.note_failure", lambda *_: order.append("found"))
    after_rows(monkeypatch, 1, lambda: order.append("trained"))
    done = trpo_train("-m", *SMALL, "algo.gamma=0.9,7", "hydra.sweep.dir=sweep")
    assert done.status == 1
    assert order == ["found", "trained"]
    hopeless = trpo_train("-m", *SMALL, "gamma=0.9,0.99", "hydra.sweep.dir=none")
    assert (hopeless.status, hopeless.out) == (1, "")
    assert "gamma: no such key; did you mean 'algo.gamma'?" in hopeless.err
    assert "a sweep takes hydra.sweep.dir=DIR" in trpo_train("-m", *SMALL, "hydra.run.dir=x").err
    assert "a single run takes hydra.run.dir=DIR" in trpo_train(*SMALL, "hydra.sweep.dir=x").err
    assert {path.name for path in tmp_path.iterdir()} == {"sweep"}


def test_names_are_those_of_the_overrides() -> None:
    def names(*combinations: list[str]) -> list[str]:
        return [job.name for job in make_jobs(combinations, Path("sweep"))]

    constant = ["total_steps=9", "resume=auto", "hydra.sweep.dir=x", "experiment=large_batch"]
    assert names(["seed=0", "algo=trpo", *constant], ["seed=1", "algo=trpo", *constant]) == [
        "algo=trpo,seed=0",
        "algo=trpo,seed=1",
    ]
    assert names(["total_steps=8"], ["total_steps=9"]) == ["total_steps=8", "total_steps=9"]
    assert names(["total_steps=8"]) == ["job"]
    [odd, other] = names(["++env.kwargs={a:1}"], ["++env.kwargs={a 1}"])
    assert odd != other
    assert odd.startswith("env.kwargs=_a_1_-")
    assert all(len(name) < 255 for name in names([f"policy.hidden_sizes=[{'8,' * 200}8]"]))
    with pytest.raises(ConfigError, match="seed=0: this job occurs 2 times"):
        make_jobs([["seed=0"], ["seed=0"]], Path("sweep"))


def test_where_a_resumed_sweep_lies(tmp_path: Path) -> None:
    assert with_sweep_directory(["-m", "seed=0,1"]) == ["-m", "seed=0,1"]
    with pytest.raises(RunDirectoryError, match="holds no sweep"):
        with_sweep_directory([f"sweep.resume={tmp_path}"])
    (tmp_path / SWEEP).touch()
    assert with_sweep_directory([f"sweep.resume={tmp_path}"]) == [
        f"sweep.resume='{tmp_path}'",
        f"hydra.sweep.dir='{tmp_path}'",
    ]
    with pytest.raises(ConfigError, match="already says where"):
        with_sweep_directory([f"sweep.resume={tmp_path}", "hydra.sweep.dir=x"])


def test_the_state_of_a_run_is_read_from_its_files(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert state(run).status == "waiting"
    lock = Lock(make(run) / ".lock")
    assert state(run).status == "running"
    lock.release()
    (run / "metrics.csv").write_text("env_steps,rollout/episode_return_mean\n64,1.5\n128,2.5\n192,")
    make(run / "checkpoints")
    found = state(run)
    assert (found.status, found.env_steps, found.final_training_return) == ("stopped", 128, 2.5)
    (run / "train.log").write_text("2026-01-01 10:00:00,000 ERROR the run ended early: no more\nTraceback\n")
    assert (state(run).status, state(run).error) == ("failed", "no more")
    with (run / "train.log").open("a") as file:
        file.write("2026-01-01 10:00:00,000 INFO going on\n")
    assert state(run).status == "stopped"
    (run / "summary.json").write_text('{"env_steps": 9, "final_training_return": 3.5, "wall_seconds": 2.0}')
    assert (state(run).status, state(run).final_training_return, state(run).seconds) == ("finished", 3.5, 2.0)
    (run / "summary.json").write_text("nonsense")
    assert "cannot be read" in (state(run).error or "")


def make(directory: Path) -> Path:
    directory.mkdir()
    return directory


@pytest.mark.parametrize(
    ("number", "send"), [(signal.SIGTERM, os.kill), pytest.param(signal.SIGINT, os.killpg, marks=pytest.mark.slow)]
)
def test_jobs_in_other_processes_save_before_a_sweep_is_stopped(
    tmp_path: Path, number: signal.Signals, send: Callable[[int, int], None]
) -> None:
    """SIGTERM comes to the sweep alone, and Ctrl-C of a terminal to its jobs too."""
    joblib = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=sweep")
    arguments = ["-m", *SMALL, "total_steps=9999999", "checkpoint.every=99999", "seed=0,1", *joblib]
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while (
        time.monotonic() < deadline
        and sum(path.stat().st_size > 0 for path in tmp_path.glob("sweep/*/metrics.csv")) < 2
    ):
        time.sleep(0.05)
    send(process.pid, number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, out
    assert out.endswith("sweep.resume=sweep\n")
    for job in statuses(tmp_path / "sweep").values():
        newest = checkpoint.load_newest(tmp_path / "sweep" / job["directory"] / "checkpoints")
        assert newest.state["sampler"]["env_steps"] == job["env_steps"] > 0


def test_a_signal_that_a_worker_was_stopped_by_is_told_to_whoever_launched_it() -> None:
    stopped = pickle.loads(pickle.dumps(Stopped(signal.SIGTERM)))
    assert (stopped.by, stopped.code) == (signal.SIGTERM, 143)


def test_a_signal_is_one_signal_however_often_it_is_sent_at_once() -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal is signal.SIGTERM
        stop._since -= 2
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "options"), [("joblib", ["hydra.launcher.n_jobs=2"]), ("submitit_local", [])])
def test_every_launcher_gives_the_same_parameters(
    trpo_train: Command, tmp_path: Path, launcher: str, options: list[str]
) -> None:
    """The real command with jobs in other processes, and in this one, a batch at a time."""
    batch = ["sampler.num_envs=8", "sampler.steps_per_iteration=1024"]
    sweep = ["-m", "env=Hopper-v4", "algo=trpo,npg", "total_steps=1024", *batch, "eval.every=0"]
    here = trpo_train(*sweep, "hydra.sweeper.max_batch_size=1", "hydra.sweep.dir=here")
    assert here.status == 0, here.err
    arguments = [*sweep, f"hydra/launcher={launcher}", *options, "hydra.sweep.dir=there"]
    there = subprocess.run([*COMMAND, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert there.returncode == 0, there.stderr
    for out in (here.out, there.stdout):
        assert out.count("\nfinished  1,024 ") == 2
    for job in statuses(tmp_path / "here"):
        one, other = (saved(tmp_path / name / job) for name in ("here", "there"))
        assert exactly(one["policy"], other["policy"])


@pytest.mark.slow
def test_jobs_of_joblib_may_have_workers(tmp_path: Path) -> None:
    """Processes that start processes, and whose temporary folder has a long name."""
    long = tmp_path / ("long" * 30)
    long.mkdir()
    sweep = ["-m", *SMALL, "sampler.vectorization=async", "seed=0,1", "hydra/launcher=joblib", "hydra.sweep.dir=sweep"]
    environment = {**os.environ, "TMPDIR": str(long)}
    done = subprocess.run([*COMMAND, *sweep], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert [job["status"] for job in statuses(tmp_path / "sweep").values()] == ["finished"] * 2


def test_grids_of_a_preset_are_run_once_each(trpo_train: Command, tmp_path: Path) -> None:
    grids = "hydra.sweeper.grids=[{algo: trpo, seed: 'range(3)'}, {algo: 'npg,trpo', seed: '0,1'}]"
    params = "+hydra.sweeper.params={env: 'CartPole-v1,Acrobot-v1'}"

    def listed(*more: str) -> list[str]:
        done = trpo_train("-m", grids, params, *more, "hydra.sweep.dir=sweep", "sweep.dry_run=true")
        assert done.status == 0, done.err
        return sorted(line.split()[1] for line in done.out.splitlines() if line.startswith("waiting"))

    cells = [*itertools.product(["trpo"], range(3)), *itertools.product(["npg"], range(2))]
    tasks = ("CartPole-v1", "Acrobot-v1")
    assert listed() == sorted(f"algo={algo},env={task},seed={seed}" for algo, seed in cells for task in tasks)
    assert listed("env=Pendulum-v1", "seed=7") == [f"algo={algo},env=Pendulum-v1,seed=7" for algo in ("npg", "trpo")]
    done = trpo_train("-m", "hydra.sweeper.grids=[{seed: '1,1'}]", "hydra.sweep.dir=sweep", "sweep.dry_run=true")
    assert "this job occurs 2 times" in done.err
    for wrong in ("5", "[5]", "{seed: 1}"):
        done = trpo_train("-m", f"hydra.sweeper.grids={wrong}", "hydra.sweep.dir=sweep", "sweep.dry_run=true")
        assert "hydra.sweeper.grids: got" in done.err
