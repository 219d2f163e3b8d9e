"""The states of all jobs of a sweep: saved in `sweep.status.json` while it runs, and printed as they change."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from trpo_cli.cli.tables import format_table
from trpo_cli.errors import RunDirectoryError
from trpo_cli.run import durable
from trpo_cli.run.layout import SWEEP
from trpo_cli.run.state import ENDED, FAILED, RUNNING, WAITING, State, state
from trpo_cli.shell import short_path
from trpo_cli.sweep.job import Job

INTERVAL = 2.0  # seconds
ROOM = 100  # characters of an error


class Status:
    """As a context manager, it checks the jobs every few seconds, saves their states and prints what has changed."""

    def __init__(self, directory: Path, command: str) -> None:
        self.directory, self.command = directory, command
        self.jobs: list[Job] = []
        self.earlier: list[Job] = []  # jobs of the same sweep that this command did not ask for
        self.expected: int | None = None  # how many jobs there will be
        self.failures: dict[str, str] = {}  # job -> error, for those that no run directory records
        self._seen: dict[str, State] = {}
        self._over = threading.Event()
        self._lock = threading.RLock()  # the watching thread and the launching one both refresh
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def add(self, jobs: Sequence[Job]) -> None:
        """Track these jobs, too."""
        with self._lock:
            self.jobs += [job for job in jobs if job not in self.jobs]
            asked = {job.name for job in self.jobs}
            self.earlier = [job for job in self.earlier if job.name not in asked]
            self._seen = self.states() | self._seen
            self._write(self._seen)

    def states(self) -> dict[str, State]:
        """The state of each job, by its name."""
        return {job.name: self.state(job) for job in (*self.earlier, *self.jobs)}

    def state(self, job: Job) -> State:
        """The progress of a job."""
        found = state(job.directory)
        if job.name in self.failures and found.status != RUNNING:
            return replace(found, status=FAILED, error=self.failures[job.name])
        return found

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self.refresh()
        self._write(self._seen)

    def _watch(self) -> None:
        while not self._over.wait(INTERVAL):
            try:
                self.refresh()
            except RunDirectoryError as error:  # it may be temporary; only the last write, on exit, must succeed
                print(f"error: {error}", file=sys.stderr, flush=True)

    def refresh(self) -> None:
        """Save the states if they have changed, and print which jobs started or ended."""
        with self._lock:
            self._refresh()

    def _refresh(self) -> None:
        found = self.states()
        if found == self._seen:
            return
        for name, now in found.items():
            if now.status not in (self._seen.get(name, now).status, WAITING):
                print(
                    describe_change(name, now) + self._count_ended(found.values() if now.status in ENDED else []),
                    flush=True,
                )
        self._seen = found
        self._write(found)

    def _count_ended(self, states: Collection[State]) -> str:
        """How many jobs have ended, if the total is known."""
        ended = sum(state.status in ENDED for state in states)
        return f"  ({ended} of {len(self.earlier) + self.expected})" if self.expected and states else ""

    def _write(self, states: Mapping[str, State]) -> None:
        """Raises `RunDirectoryError` if the file cannot be written."""
        try:
            durable.write(self.directory / SWEEP, (json.dumps(self._content(states), indent=2) + "\n").encode())
        except OSError as error:
            raise RunDirectoryError(f"{self.directory / SWEEP}: cannot be written: {error.strerror}") from error

    def _content(self, states: Mapping[str, State]) -> dict[str, Any]:
        jobs = [
            {"name": job.name, "overrides": job.overrides, "directory": job.name, **asdict(states[job.name])}
            for job in (*self.earlier, *self.jobs)
        ]
        return {"command": self.command, "jobs": jobs}


def describe_change(name: str, now: State) -> str:
    """One line about a job that started or ended."""
    facts = [
        "" if now.final_training_return is None or now.status == RUNNING else f"return {now.final_training_return:.5g}",
        "" if now.seconds is None else f"{now.seconds:.0f} s",
        f"ended early by {now.stopped['by']}" if now.stopped else "",
        shorten(now.error or ""),
    ]
    return "  ".join([f"{now.status:8}", name, *filter(None, facts)])


def table(states: Mapping[str, State], directory: Path) -> str:
    """All jobs, one line each; their directories are relative to that of the sweep."""
    head = ("status", "steps", "final return", "evaluation", "seconds", "directory", "error")
    rows = [
        (
            each.status,
            _cell(each.env_steps, ",d"),
            _cell(each.final_training_return, ".5g"),
            _cell(each.final_evaluation_return, ".5g"),
            _cell(each.seconds, ".0f"),
            name,
            shorten(each.error or ""),
        )
        for name, each in states.items()
    ]
    return f"{short_path(directory)}:\n{format_table([head, *rows])}"


def shorten(text: str) -> str:
    """`text`, cut to the length of a line."""
    return text if len(text) <= ROOM else f"{text[: ROOM - 1]}…"


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
