"""Environments that exit, will not be closed, can be had once, or have processes of their own: survived, and told."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import probes
import pytest
from comparison import rows
from conftest import Command
from test_workers import gone, pids, script, started

from trpo_cli.envs import closing
from trpo_cli.envs import workers as parent
from trpo_cli.envs.environments import Environments
from trpo_cli.envs.make import Parallelism, Task
from trpo_cli.errors import ConfigError, EnvironmentFault
from trpo_cli.run.signals import Stopped

MODES: tuple[Any, ...] = ("sync", "async")
STILL = np.zeros((2, 1), dtype=np.int64)
SMALL = ("plugins=[probes]", "env=gym", "sampler.num_envs=2", "sampler.steps_per_iteration=32", "total_steps=64")
SMALL = (*SMALL, "hydra.run.dir=run")


def made(env_id: str, vectorization: Any, num_envs: int = 2, timeout: float = 30.0, **kwargs: Any) -> Environments:
    task = Task(env_id, kwargs, None, False, False, 10.0, 10.0, timeout)
    return Environments(task, num_envs, list(range(num_envs)), Parallelism(vectorization))


@pytest.mark.parametrize("vectorization", MODES)
@pytest.mark.parametrize(
    ("when", "how", "said"),
    [
        ("reset", "exit", "raised in a reset at step 0 of environment 0: SystemExit: 3"),
        ("step", "exit", "raised at step 1 of environment 0: SystemExit: 3"),
        ("step", "quit", "raised at step 1 of environment 0: SystemExit"),
    ],
)
def test_an_exit_is_a_fault(vectorization: Any, when: str, how: str, said: str) -> None:
    def leave() -> None:
        with contextlib.closing(made("Probe/Leaving-v0", vectorization, when=when, how=how)) as envs:
            envs.step(STILL)

    with pytest.raises(EnvironmentFault) as fault:
        leave()
    assert str(fault.value) == f"Probe/Leaving-v0 {said}"


@pytest.mark.parametrize("how", ["exit", "raise"])
def test_what_leaves_when_it_is_made_cannot_be_made(how: str) -> None:
    with pytest.raises(ConfigError, match=r"Probe/Leaving-v0 cannot be made with .*: (SystemExit: 3|not connected)$"):
        made("Probe/Leaving-v0", "sync", when="make", how=how)


@pytest.mark.parametrize("stop", [Stopped(signal.SIGTERM), KeyboardInterrupt()])
def test_a_signal_is_not_taken_for_an_exit(stop: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*arguments: Any, **keywords: Any) -> Any:
        raise stop

    envs = made("Probe/Constant-v0", "sync")
    one = np.array([True, False])
    for method, call in (("reward", lambda: envs.step(STILL)), ("reset", lambda: envs.restart(one))):
        monkeypatch.setattr(probes.Constant, method, stopped)
        with pytest.raises(type(stop)):
            call()
    monkeypatch.setattr(probes.Constant, "close", stopped)
    with pytest.raises(type(stop)):
        envs.close()


@pytest.mark.parametrize("vectorization", MODES)
@pytest.mark.parametrize("how", ["raise", "exit"])
def test_a_close_that_goes_wrong_is_told_once(
    vectorization: Any, how: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    envs = made("Probe/Leaving-v0", vectorization, when="close", how=how)
    envs.step(STILL)
    for _ in range(2):
        envs.rebuild([2, 3])
    envs.close()
    error = {"raise": "RuntimeError: not connected", "exit": "SystemExit: 3"}[how]
    assert caplog.messages == [
        f"Probe/Leaving-v0 raised in its close: {error}; it is given up",  # of that which was looked at
        f"Probe/Leaving-v0 raised in a close of environment 0: {error}; it is given up",
    ]


def test_a_close_that_goes_wrong_spoils_no_run(trpo_train: Command, tmp_path: Path) -> None:
    done = trpo_train(*SMALL, "env.id=Probe/Leaving-v0", "env.kwargs={when: close, how: raise}", "eval.every=32")
    assert done.status == 0, done.err
    log = (tmp_path / "run" / "train.log").read_text()
    assert log.count("raised in a close of environment 0: RuntimeError: not connected") == 1
    assert rows(tmp_path / "run")[-1]["rollout/faults"] == "0"
    assert (tmp_path / "run" / "summary.json").exists()


def test_a_worker_that_will_not_close_is_killed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(parent, "CLOSE", 0.5)
    monkeypatch.setattr(probes.Leaving, "close", lambda self: None)  # here; the workers have another
    envs = made("Probe/Leaving-v0", "async", when="close", how="hang")
    numbers, start = pids(envs), time.monotonic()
    envs.close()
    assert time.monotonic() - start < 5
    assert gone(numbers, seconds=1)
    assert caplog.messages == [
        "Probe/Leaving-v0: worker process 0 did not end within 0.5 s, and was killed; it is given up"
    ]


def test_a_close_that_hangs_in_turn_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first, and those after it."""
    monkeypatch.setattr(closing, "PATIENCE", 0.1)
    monkeypatch.setattr(closing, "AGAIN", 0.1)
    before, start = signal.getsignal(signal.SIGALRM), time.monotonic()
    envs = made("Probe/Leaving-v0", "sync", when="close", how="hang")
    envs.close()
    assert time.monotonic() - start < 5
    assert caplog.messages == [
        f"Probe/Leaving-v0 raised in {place}: CloseTimeout: it did not return within 0.1 s; it is given up"
        for place in ("its close", "a close of environment 0")
    ]
    assert (signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)) == (before, (0.0, 0.0))


def test_ctrl_c_interrupts_it_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(self: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1000)

    envs = made("Probe/Leaving-v0", "sync", when="never", how="")
    monkeypatch.setattr(probes.Leaving, "close", hang)
    with pytest.raises(KeyboardInterrupt):
        envs.close()


@pytest.mark.parametrize("vectorization", MODES)
def test_what_can_be_had_once_is_had_once(vectorization: Any, tmp_path: Path) -> None:
    envs = made("Probe/Single-v0", vectorization, num_envs=1, folder=str(tmp_path))
    for seed in range(2):
        envs.step(STILL[:1])
        envs.rebuild([seed])
    envs.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("vectorization", MODES)
def test_those_that_could_be_made_are_let_go_of_if_another_cannot(vectorization: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="every seat is taken"):
        made("Probe/Single-v0", vectorization, num_envs=3, folder=str(tmp_path), seats=2)
    assert not list(tmp_path.iterdir())


def test_a_run_with_the_only_one(
    trpo_train: Command, trpo_eval: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It trains, is resumed and evaluated; only the evaluations in between are left out, with one word."""
    seats = tmp_path / "seats"
    seats.mkdir()
    only = ("env.id=Probe/Single-v0", f"env.kwargs={{folder: {seats}}}", "sampler.num_envs=1", "eval.every=32")
    done = trpo_train(*SMALL, *only)
    assert done.status == 0, done.err
    assert done.err.count("this evaluation is skipped") == 1
    assert "no Probe/Single-v0 can be made for the evaluation: env.id: Probe/Single-v0 cannot" in done.err
    assert trpo_train("resume=run", "plugins=[probes]", "total_steps=128").status == 0
    table = rows(tmp_path / "run")
    assert [row["eval/episode_return_mean"] for row in table] == [""] * 4
    assert [row["rollout/faults"] for row in table] == ["1", "2", "3", "4"]
    played = trpo_eval("run", "--plugins", "probes", "--episodes", "3")
    assert played.status == 0
    assert "|      5.00 |" in played.out
    assert caplog.messages[-1].endswith("3 environments cannot exist at a time, so one plays all episodes")
    assert not list(seats.iterdir())


@pytest.mark.parametrize("vectorization", MODES)
def test_an_environment_may_have_processes_of_its_own(vectorization: Any) -> None:
    envs = made("Probe/Helped-v0", vectorization)
    helpers = envs.step(STILL)[1].astype(int).tolist()
    assert len(set(helpers)) == 2
    envs.close()
    assert gone(helpers, seconds=1)


def test_those_of_a_worker_that_hangs_end_with_it() -> None:
    envs = made("Probe/Helped-v0", "async", timeout=2.0, seconds=1000.0)
    helpers = envs.step(STILL)[1].astype(int).tolist()
    with pytest.raises(EnvironmentFault, match="gave no answer within 2 s"):
        envs.step(STILL)
    envs.close()
    assert gone(helpers, seconds=1)


@pytest.mark.parametrize("seconds", [0.0, pytest.param(1000.0, marks=pytest.mark.slow)])
def test_a_killed_program_leaves_none_of_them(seconds: float) -> None:
    """Whether its workers wait for it or step."""
    process = script(f"""
task = Task("Probe/Helped-v0", {{"seconds": {seconds}}}, None, False, False, 10.0, 10.0)
envs, still = Environments(task, 2, [0, 1], Parallelism("async")), np.zeros((2, 1), dtype=int)
print(*envs.step(still)[1].astype(int), *(process.pid for process in envs._envs._processes), flush=True)
while True: envs.step(still)
""")
    numbers = started(process)
    assert len(numbers) == 4
    time.sleep(0.2)
    process.kill()
    _, err = process.communicate(timeout=20)
    assert gone(numbers)
    assert err == ""
