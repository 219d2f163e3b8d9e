"""Signals exactly where they could get lost, to this process and to real commands; `interrupt.py` has random ones."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import interrupt
import kill
import pytest
from conftest import Command
from test_sweep import SMALL, statuses

from trpo_cli import report
from trpo_cli.play import film
from trpo_cli.run import checkpoint
from trpo_cli.run.directory import Run
from trpo_cli.run.signals import ExitAtOnce, Interruptible, Stopped, StopRequest, block_signals
from trpo_cli.sweep import stopping
from trpo_cli.sweep.campaign import Campaign

SWEEP = ("-m", *SMALL, "seed=0,1,2", "hydra.sweep.dir=sweep")


def send(number: signal.Signals = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


def calling(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, before: bool, times: int = 1) -> None:
    """Have the signal come once, just before or after a function is called for the `times`-th time."""
    original, left = getattr(owner, name), times

    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if before and not left:
            send()
        found = original(*arguments, **options)
        if not before and not left:
            send()
        return found

    monkeypatch.setattr(owner, name, call)


@pytest.mark.parametrize(
    ("owner", "name", "before", "finished"),
    [
        pytest.param(Run, "begin", True, 0, marks=pytest.mark.slow),  # in the building of a job
        (checkpoint, "save", False, 0),  # in a job
        pytest.param(Run, "finish", True, 1, marks=pytest.mark.slow),  # as a job ends
        pytest.param(Run, "finish", False, 1, marks=pytest.mark.slow),
        pytest.param(Run, "__exit__", False, 1, marks=pytest.mark.slow),
        (Campaign, "_launch", True, 0),  # before the first
        (report, "write", True, 3),  # in the report
    ],
)
def test_a_sweep_that_is_interrupted_stops_and_says_how_it_goes_on(
    trpo_train: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    before: bool,
    finished: int,
) -> None:
    with monkeypatch.context() as patch:
        calling(patch, owner, name, before)
        stopped = trpo_train(*SWEEP, f"sweep.report={owner is report}")
    assert stopped.status == 130, stopped.err
    assert "stopped by SIGINT; to resume:\n  trpo-train -m" in stopped.out
    assert stopped.out.endswith("sweep.resume=sweep\n")
    assert [job["status"] for job in statuses(tmp_path / "sweep").values()].count("finished") == finished
    assert trpo_train(*SWEEP[:-1], "sweep.resume=sweep").status == 0
    assert [job["status"] for job in statuses(tmp_path / "sweep").values()] == ["finished"] * 3


def test_a_signal_that_became_another_error_stops_the_sweep_too(
    trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(self: Campaign, jobs: Sequence[Any]) -> None:
        with contextlib.suppress(Stopped):
            send(signal.SIGTERM)
        raise RuntimeError("what a library made of it")

    monkeypatch.setattr(Campaign, "_launch", launch)
    assert trpo_train(*SWEEP).status == 143


def test_a_run_that_has_just_finished_is_no_interrupted_one(
    trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calling(monkeypatch, checkpoint, "save", before=True, times=2)  # of the last iteration
    done = trpo_train(*SMALL, "hydra.run.dir=run")
    assert (done.status, (tmp_path / "run" / "summary.json").exists()) == (0, True)


def test_a_search_that_is_interrupted_as_a_job_ends(
    trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    search = ("-m", *SMALL, "hydra/sweeper=optuna", "algo.delta=interval(0.01,0.02)", "hydra.sweeper.n_trials=2")
    search = (*search, "hydra.sweeper.seeds=[0]", "hydra.sweeper.metric=final_training_return")
    with monkeypatch.context() as patch:
        calling(patch, Run, "finish", before=False)
        stopped = trpo_train(*search, "hydra.sweep.dir=search")
    assert stopped.status == 130, stopped.err
    assert stopped.out.endswith("sweep.resume=search\n")
    assert trpo_train(*search, "sweep.resume=search").status == 0


@pytest.mark.parametrize(
    "values", [pytest.param(1, marks=pytest.mark.slow), 3, pytest.param(4, marks=pytest.mark.slow)]
)
def test_a_search_that_is_interrupted_as_it_draws_values(
    trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: int
) -> None:
    """Two of them are the default's, of the first trial; those of the second are drawn."""
    optuna = pytest.importorskip("optuna")
    search = ("-m", *SMALL, "hydra/sweeper=optuna", "algo.delta=interval(0.005,0.02)", "algo.gamma=interval(0.9,0.999)")
    search = (*search, "hydra.sweeper.n_trials=2", "hydra.sweeper.seeds=[0]")
    search = (*search, "hydra.sweeper.metric=final_training_return")
    assert trpo_train(*search, "hydra.sweep.dir=whole").status == 0
    with monkeypatch.context() as patch:
        calling(patch, optuna.trial.Trial, "_suggest", before=False, times=values)
        assert trpo_train(*search, "hydra.sweep.dir=parts").status == 130
    assert trpo_train(*search, "sweep.resume=parts").status == 0
    whole, parts = ((tmp_path / name / "search.csv").read_text() for name in ("whole", "parts"))
    assert whole == parts


def test_jobs_of_a_stopped_sweep_that_begin_late_end_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the queue of a launcher, say; those of the command that goes on are others."""
    monkeypatch.setenv(stopping.COMMAND, "")
    stopping.tag_command()
    stopping.refuse_stopped(tmp_path)
    stopping.stop_jobs(tmp_path, [], signal.SIGTERM)
    with pytest.raises(Stopped) as stopped:
        stopping.refuse_stopped(tmp_path)
    assert stopped.value.code == 143
    stopping.tag_command()
    stopping.refuse_stopped(tmp_path)


def test_what_a_launcher_starts_does_not_hear_the_terminal() -> None:
    code = "import signal; print(*map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ())))"
    with block_signals(stopping.FROM_TERMINALS):
        heard = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert {signal.SIGHUP, signal.SIGINT} <= {int(number) for number in heard.split()}
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGHUP, signal.SIGINT}


def test_what_was_noted_within_is_known_outside() -> None:
    outside = signal.getsignal(signal.SIGUSR1)
    with Interruptible() as outer:
        with StopRequest() as inner:
            send(signal.SIGUSR1)
            with StopRequest() as innermost:
                assert innermost.signal is inner.signal is signal.SIGUSR1
        with pytest.raises(Stopped):
            outer.check()
    assert signal.getsignal(signal.SIGUSR1) == outside


def test_a_signal_that_comes_in_a_finaliser_is_not_lost() -> None:
    class Last:
        def __del__(self) -> None:
            send()

    def wait() -> None:
        Last()
        time.sleep(5)

    with pytest.raises(Stopped), Interruptible():
        wait()


def test_a_hangup_is_heard_unless_it_was_ignored() -> None:
    before = signal.getsignal(signal.SIGHUP)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        with StopRequest() as stop:
            send(signal.SIGHUP)
            assert stop.signal is None
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with pytest.raises(Stopped) as stopped, Interruptible():
            send(signal.SIGHUP)
        assert stopped.value.code == 129
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_whose_terminal_is_closed_saves_and_ends(tmp_path: Path) -> None:
    terminal, far = pty.openpty()
    words = ("env=CartPole-v1", "total_steps=99999999", "checkpoint.every=99999", *kill.TRPO[:1], "hydra.run.dir=run")
    process = interrupt.started(words, tmp_path, stdin=far, stdout=far, stderr=far)
    os.close(far)
    waited(lambda: (tmp_path / "run" / "metrics.csv").exists() and (tmp_path / "run" / "metrics.csv").stat().st_size)
    os.close(terminal)
    os.killpg(process.pid, signal.SIGHUP)  # what the kernel sends to those who have it as their terminal
    assert process.wait(60) == 129
    assert checkpoint.load_newest(tmp_path / "run" / "checkpoints").state["sampler"]["env_steps"] > 0


def waited(happens: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextlib.contextmanager
def ending(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The statuses with which this process would have ended at once."""
    ends: list[int] = []

    def end(status: int) -> None:
        ends.append(status)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(os, "_exit", end)
        yield ends


def test_a_signal_before_a_run_begins_leaves_nothing_behind(
    trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calling(monkeypatch, Run, "__enter__", before=False)
    with ending(monkeypatch) as ends:
        trpo_train(*SMALL)
    assert ends == [130]
    assert not list(tmp_path.iterdir())


def test_a_film_that_is_interrupted_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("imageio_ffmpeg")
    import numpy as np

    frame = np.zeros((16, 16, 3), np.uint8)
    with ending(monkeypatch) as ends, film.open_film(tmp_path / "film.mp4", frame, 30.0) as show:
        show(frame)
        send(signal.SIGTERM)
    assert ends == [143]
    assert not list(tmp_path.iterdir())


def test_a_signal_that_comes_too_late_changes_no_status(monkeypatch: pytest.MonkeyPatch) -> None:
    with ending(monkeypatch) as ends, ExitAtOnce() as guard:
        guard.status = 0
        send()
    assert ends == [0]


IMPORTING = """
import importlib, sys, time
from trpo_cli.cli import start
real = importlib.import_module
def slowly(name, package=None):
    ours = name == f"trpo_cli.{sys.argv[1]}"
    if ours:
        print(flush=True)
    module = real(name, package)
    time.sleep(60 if ours else 0)
    return module
importlib.import_module = slowly
getattr(start, sys.argv[1])()
"""


@pytest.mark.parametrize("command", ["train", "evaluate", "report"])
def test_a_command_that_is_interrupted_as_it_starts_ends_with_a_line(command: str, tmp_path: Path) -> None:
    for delay in (0.0, 0.05):
        process = subprocess.Popen(
            [sys.executable, "-c", IMPORTING, command], cwd=tmp_path, stdout=-1, stderr=-1, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()  # it begins to import
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (130, "stopped by SIGINT\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", interrupt.CASES)
def test_at_random_instants(tmp_path: Path, name: str) -> None:
    assert len(interrupt.case(name, interrupt.INTERRUPTS, tmp_path, seed=1)) == interrupt.INTERRUPTS
