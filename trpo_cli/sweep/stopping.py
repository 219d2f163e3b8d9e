"""Stops the jobs of a sweep in other processes: running ones by a signal, those that have not started by a file."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

from trpo_cli.run import durable
from trpo_cli.run.lock import LOCK, holder
from trpo_cli.run.signals import Stopped
from trpo_cli.sweep.job import Job

NOTE = ".stopped"  # in a sweep's directory: which command was stopped, and by which signal
COMMAND = "TRPO_CLI_SWEEP"  # environment variable of the jobs: which command launched them
FROM_TERMINALS = (signal.SIGINT, signal.SIGHUP)  # sent to every process of a terminal


def tag_command() -> None:
    """Tag the jobs of this command, to tell it from earlier and later commands in the same directory."""
    os.environ[COMMAND] = uuid4().hex


def stop_jobs(directory: Path, jobs: Sequence[Job], by: signal.Signals) -> None:
    """Let the jobs in other processes of this machine save and end, before the launcher kills them."""
    with contextlib.suppress(OSError):  # on a full disk, signals still reach the running jobs
        durable.write(directory / NOTE, f"{os.environ[COMMAND]} {int(by)}".encode())
    signalled: set[tuple[Path, int]] = set()
    while now := {(lock, pid) for lock in (job.directory / LOCK for job in jobs) if (pid := _other_holder(lock))}:
        for _, process in now - signalled:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(process, signal.SIGTERM)
        signalled |= now
        time.sleep(0.1)


def _other_holder(lock: Path) -> int | None:
    process = holder(lock)
    return None if process == os.getpid() else process


def refuse_stopped(directory: Path) -> None:
    """Raise `Stopped` if the sweep in `directory` has been stopped since it launched this job."""
    with contextlib.suppress(FileNotFoundError):
        command, by = (directory / NOTE).read_text().split()
        if command == os.environ.get(COMMAND):
            raise Stopped(signal.Signals(int(by)))
