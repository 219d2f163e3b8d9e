"""How the jobs in other processes learn that their sweep was stopped: by a signal, those yet to begin by a file."""

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

NOTE = ".stopped"  # in the directory of a sweep: which command was stopped there, and by what signal
COMMAND = "TRPO_CLI_SWEEP"  # in the environment of its jobs: which command launched them
FROM_TERMINALS = (signal.SIGINT, signal.SIGHUP)  # they reach every process that a terminal has started


def name_command() -> None:
    """Give the jobs of this command something to tell it from those before and after it in the same directory."""
    os.environ[COMMAND] = uuid4().hex


def let_end(directory: Path, jobs: Sequence[Job], by: signal.Signals) -> None:
    """Have the jobs in other processes of this machine save and end: the launcher would kill them."""
    with contextlib.suppress(OSError):  # a disk may be full, and the signals will do for those that have begun
        durable.write(directory / NOTE, f"{os.environ[COMMAND]} {int(by)}".encode())
    told: set[tuple[Path, int]] = set()
    while now := {(lock, pid) for lock in (job.directory / LOCK for job in jobs) if (pid := _other(lock))}:
        for _, process in now - told:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(process, signal.SIGTERM)
        told |= now
        time.sleep(0.1)


def _other(lock: Path) -> int | None:
    process = holder(lock)
    return None if process == os.getpid() else process


def refuse_stopped(directory: Path) -> None:
    """Raise `Stopped` if the command that launched this job in the sweep in `directory` was stopped meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        command, by = (directory / NOTE).read_text().split()
        if command == os.environ.get(COMMAND):
            raise Stopped(signal.Signals(int(by)))
