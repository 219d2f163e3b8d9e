"""One row of metrics an iteration -> `metrics.csv`, TensorBoard, a tracker, and a line for whoever watches.

A run that goes on finds both files as they were at its checkpoint: rows written after it are dropped, since they will
be written again, and those that TensorBoard lost with a killed process are taken from `metrics.csv`.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from trpo_cli.errors import RunDirectoryError
from trpo_cli.run.layout import METRICS, TENSORBOARD, relative
from trpo_cli.run.tensorboard import TensorBoard
from trpo_cli.run.trackers import Tracking

log = logging.getLogger("trpo_cli")

COLUMNS = (
    "env_steps",
    "rollout/episode_return_mean",
    "rollout/recent_return_mean",
    "rollout/episode_length_mean",
    "rollout/episodes",
    "rollout/faults",
    "rollout/inexact_resumes",
    "policy/kl",
    "policy/max_kl",
    "policy/entropy",
    "policy/surrogate_improvement",
    "trust_region/cg_residual",
    "trust_region/curvature",
    "trust_region/predicted_improvement",
    "trust_region/backtracks",
    "trust_region/accepted",
    "trust_region/outcome",
    "critic/explained_variance",
    "critic/loss",
    "eval/episode_return_mean",
    "eval/episode_return_std",
    "eval/episode_length_mean",
    "time/steps_per_second",
    "time/sample_seconds",
    "time/update_seconds",
)
"""In every `metrics.csv`, in this order, whatever the algorithm; an algorithm's own columns follow."""


class Logger:
    """Writes rows until it is closed. A missing value is an empty cell, and no point in TensorBoard."""

    def __init__(
        self,
        directory: Path,
        total_steps: int,
        env_steps: int = 0,
        written: int = 0,
        tracking: Tracking | None = None,
        watched: bool = True,
    ) -> None:
        """Go on after `env_steps` steps, with the first `written` bytes of `metrics.csv`.

        Raises `RunDirectoryError` if the files cannot be read or written.
        """
        self.path = directory / METRICS
        try:
            rows = self._kept(written)
            kept = [{name: float(cell) for name, cell in row.items() if cell} for row in rows]
            self._tensorboard = TensorBoard(directory / TENSORBOARD, kept, env_steps)
            self._file = self.path.open("a", newline="", encoding="utf-8")
        except (OSError, csv.Error, KeyError, TypeError, ValueError, OverflowError) as error:
            raise RunDirectoryError(f"{relative(directory)}: the run cannot be logged: {error}") from error
        self._csv = csv.DictWriter(self._file, list(rows[0]), extrasaction="ignore") if rows else None
        if self._csv and (absent := set(COLUMNS) - set(self._csv.fieldnames)):
            log.info("%s was begun by an earlier version, and goes on without %s", METRICS, ", ".join(sorted(absent)))
        watch = (TerminalProgress if sys.stderr.isatty() else PlainProgress) if watched else NoProgress
        self._tracking = tracking
        self._watch: TerminalProgress | PlainProgress | NoProgress = watch(total_steps, env_steps)
        self._hook, threading.excepthook = threading.excepthook, self._overheard

    def _kept(self, size: int) -> list[dict[str, str]]:
        """The rows in the first `size` bytes of `metrics.csv`; those that follow are dropped."""
        data = self.path.read_bytes() if self.path.exists() else b""
        if len(data) < size:
            raise ValueError(f"{METRICS} has lost rows: {len(data):,} bytes are left of {size:,} at the checkpoint")
        if data:
            os.truncate(self.path, size)
        return list(csv.DictReader(io.StringIO(data[:size].decode(), newline="")))

    def write(self, row: Mapping[str, float | None]) -> None:
        """Write one row. Every row has the algorithm's own columns of the first, or `ValueError` is raised.

        Raises `RunDirectoryError` if it cannot be written, or what was written is gone.
        """
        try:
            if self._csv is None:
                extra = [name for name in row if name not in COLUMNS]
                self._csv = csv.DictWriter(self._file, [*COLUMNS, *extra])
                self._csv.writeheader()
            if changed := (row.keys() ^ set(self._csv.fieldnames)) - set(COLUMNS):
                raise ValueError(f"not the columns of the first row: {sorted(changed)}")
            self._csv.writerow({name: _cell(value) for name, value in row.items()})
            self._file.flush()
            if not os.path.samestat(os.fstat(self._file.fileno()), self.path.stat()):
                raise FileNotFoundError("it was replaced by another file")
            self._tensorboard.write(row)
        except OSError as error:
            raise RunDirectoryError(f"{relative(self.path)}: cannot be written: {error.strerror or error}") from error
        if self._tracking is not None:
            self._tracking.write(row)
        self._watch.show(row)

    def describe(self, config: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        """Tell TensorBoard what is run, and with which versions."""
        self._tensorboard.describe(config, provenance)

    def sync(self) -> int:
        """Put every row on the disk; returns how many bytes `metrics.csv` has."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def _overheard(self, said: threading.ExceptHookArgs) -> None:
        """TensorBoard's thread tells of a full disk at the next write, too."""
        if not isinstance(said.exc_value, OSError):
            self._hook(said)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.close()
        threading.excepthook = self._hook
        with self._file:
            try:
                self._tensorboard.close(finished=error is None)
            except OSError as failure:
                if error is None:
                    raise RunDirectoryError(f"{self.path.parent}: cannot be logged: {failure}") from failure


def _cell(value: float | None) -> str:
    """Counts without a decimal point, nothing for None, everything else so that it reads back exactly."""
    if value is None:
        return ""
    return str(int(value)) if value.is_integer() else repr(value)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _summary(row: Mapping[str, float | None]) -> str:
    recent = row.get("rollout/recent_return_mean")
    return "  ".join(
        (
            f"eta {row['exact/return']:.6g}"
            if "exact/return" in row
            else f"return {_number(row['rollout/episode_return_mean'], '.1f')}",
            *([] if recent is None else [f"recent {recent:.1f}"]),
            f"kl {_number(row['policy/kl'], '.4f')}",
            f"{_number(row['time/steps_per_second'], ',.0f')} steps/s",
        )
    )


class NoProgress:
    """Nothing: others run beside this one."""

    def __init__(self, total_steps: int, env_steps: int) -> None:
        pass

    def show(self, row: Mapping[str, float | None]) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Nothing is open."""


class TerminalProgress:
    """A live progress line on standard error; log records appear above it."""

    def __init__(self, total_steps: int, env_steps: int) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.completed:>9,.0f} / {task.total:,.0f} steps"),
            BarColumn(bar_width=20),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
        )
        self._task = self._progress.add_task("starting", total=total_steps, completed=env_steps)
        self._handler = RichHandler(console=console, show_path=False, level=logging.WARNING)
        log.addHandler(self._handler)
        self._progress.start()

    def show(self, row: Mapping[str, float | None]) -> None:
        self._progress.update(self._task, completed=row["env_steps"], description=_summary(row))

    def close(self) -> None:
        self._progress.stop()
        log.removeHandler(self._handler)


class PlainProgress:
    """A log line every few seconds, for files and pipes."""

    INTERVAL = 5.0  # seconds

    def __init__(self, total_steps: int, env_steps: int) -> None:
        self._total, self._begun, self._start, self._last = total_steps, env_steps, time.monotonic(), 0.0
        self._handler = logging.StreamHandler()
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        log.addHandler(self._handler)

    def show(self, row: Mapping[str, float | None]) -> None:
        now, steps = time.monotonic(), row["env_steps"] or 0.0
        if now - self._last < self.INTERVAL and steps < self._total:
            return
        self._last = now
        left = (now - self._start) * max(0.0, self._total - steps) / max(1.0, steps - self._begun)
        log.info("%s / %s steps  %s  %.0f s left", f"{steps:,.0f}", f"{self._total:,}", _summary(row), left)

    def close(self) -> None:
        log.removeHandler(self._handler)
