"""What is known of all jobs of a sweep: kept in `sweep.status.json` while it runs, and said as it changes."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from trpo_cli.cli.tables import aligned
from trpo_cli.errors import RunDirectoryError
from trpo_cli.run import durable
from trpo_cli.run.layout import SWEEP, relative
from trpo_cli.run.state import ENDED, FAILED, RUNNING, WAITING, State, state
from trpo_cli.sweep.job import Job

INTERVAL = 2.0  # seconds
ROOM = 100  # characters for an error


class Status:
    """As a context manager it looks at the jobs every now and then, writes what it finds, and says what is new."""

    def __init__(self, directory: Path, command: str) -> None:
        self.directory, self.command = directory, command
        self.jobs: list[Job] = []
        self.earlier: list[Job] = []  # of the same sweep, that this command did not ask for
        self.expected: int | None = None  # how many jobs there will be
        self.failures: dict[str, str] = {}  # that no run's directory tells of: job -> error
        self._seen: dict[str, State] = {}
        self._over = threading.Event()
        self._one_at_a_time = threading.RLock()  # the watch and whoever launches jobs both look and write
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def add(self, jobs: Sequence[Job]) -> None:
        """Keep an eye on these, too."""
        with self._one_at_a_time:
            self.jobs += [job for job in jobs if job not in self.jobs]
            asked = {job.name for job in self.jobs}
            self.earlier = [job for job in self.earlier if job.name not in asked]
            self._seen = self.states() | self._seen
            self._write(self._seen)

    def states(self) -> dict[str, State]:
        """Of each job, by its name."""
        return {job.name: self.state(job) for job in (*self.earlier, *self.jobs)}

    def state(self, job: Job) -> State:
        """How far a job has come."""
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
        self.look()
        self._write(self._seen)

    def _watch(self) -> None:
        while not self._over.wait(INTERVAL):
            try:
                self.look()
            except RunDirectoryError as error:  # it may pass: the last writing, at the end, is what counts
                print(f"error: {error}", file=sys.stderr, flush=True)

    def look(self) -> None:
        """Write what has changed since the last look, and say which jobs began or ended."""
        with self._one_at_a_time:
            self._look()

    def _look(self) -> None:
        found = self.states()
        if found == self._seen:
            return
        for name, now in found.items():
            if now.status not in (self._seen.get(name, now).status, WAITING):
                print(news(name, now) + self._how_many(found.values() if now.status in ENDED else []), flush=True)
        self._seen = found
        self._write(found)

    def _how_many(self, states: Collection[State]) -> str:
        """How many of the jobs have ended, where their number is known."""
        ended = sum(state.status in ENDED for state in states)
        return f"  ({ended} of {len(self.earlier) + self.expected})" if self.expected and states else ""

    def _write(self, states: Mapping[str, State]) -> None:
        """Raises `RunDirectoryError` if it cannot be."""
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


def news(name: str, now: State) -> str:
    """One line on a job that began or ended."""
    facts = [
        "" if now.final_training_return is None or now.status == RUNNING else f"return {now.final_training_return:.5g}",
        "" if now.seconds is None else f"{now.seconds:.0f} s",
        shortened(now.error or ""),
    ]
    return "  ".join([f"{now.status:8}", name, *filter(None, facts)])


def table(states: Mapping[str, State], directory: Path) -> str:
    """All jobs, a line each, their directories being those in that of the sweep."""
    head = ("status", "steps", "final return", "evaluation", "seconds", "directory", "error")
    rows = [
        (
            each.status,
            _cell(each.env_steps, ",d"),
            _cell(each.final_training_return, ".5g"),
            _cell(each.final_evaluation_return, ".5g"),
            _cell(each.seconds, ".0f"),
            name,
            shortened(each.error or ""),
        )
        for name, each in states.items()
    ]
    return f"{relative(directory)}:\n{aligned([head, *rows])}"


def shortened(text: str) -> str:
    """As much of it as a line has room for."""
    return text if len(text) <= ROOM else f"{text[: ROOM - 1]}…"


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
