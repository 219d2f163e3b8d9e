"""The metrics of each iteration go to `metrics.csv`, TensorBoard, a tracker, and a line of progress.

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
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from trpo_cli.columns import RETURN
from trpo_cli.errors import RunDirectoryError
from trpo_cli.run import durable
from trpo_cli.run.layout import HEADLINE, METRICS, TENSORBOARD
from trpo_cli.run.tensorboard import TensorBoard
from trpo_cli.run.trackers import Tracking
from trpo_cli.shell import short_path

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
    "trust_region/improvement",
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
"""The order of these in `metrics.csv`, where a run has them; its other columns follow."""
BESIDE: Mapping[str, Callable[[float], str]] = {
    "rollout/recent_return_mean": "recent {:.1f}".format,
    "policy/kl": lambda kl: f"kl {kl:.4f}" if abs(kl) >= 1e-3 else f"kl {kl:.2g}",
    "time/steps_per_second": "{:,.0f} steps/s".format,
}
"""What a line of progress shows beside the headline, where a run has it, and in which form."""


@dataclass(frozen=True)
class Kept:
    """What `metrics.csv` had at the checkpoint that a run goes on from."""

    size: int = 0  # bytes
    columns: Sequence[str] = ()
    rows: Sequence[Mapping[str, float]] = ()  # their values, without those of empty cells

    @classmethod
    def read(cls, directory: Path, size: int, columns: Sequence[str] = ()) -> Self:
        """The first `size` bytes, which have these columns; checkpoints of earlier versions do not say which.

        Raises `RunDirectoryError` if they are gone, or no such table.
        """
        path = directory / METRICS
        try:
            data = path.read_bytes() if path.exists() else b""
            if len(data) < size:
                raise ValueError(f"{METRICS} has lost rows: {len(data):,} bytes are left of {size:,} at the checkpoint")
            table = csv.DictReader(io.StringIO(data[:size].decode(), newline=""))
            found = list(table.fieldnames or ())
            if columns and found != list(columns):
                changed = ", ".join(sorted({*columns} ^ {*found}) or found)
                raise ValueError(f"{METRICS} does not have the columns that it had at the checkpoint: {changed}")
            return cls(size, found, [{name: float(cell) for name, cell in row.items() if cell} for row in table])
        except (OSError, csv.Error, TypeError, ValueError, OverflowError) as error:
            raise RunDirectoryError(f"{short_path(directory)}: the run cannot be logged: {error}") from error


class Logger:
    """Writes rows until it is closed. A missing value is an empty cell, and no point in TensorBoard."""

    def __init__(
        self,
        directory: Path,
        headline: str,
        total_steps: int,
        env_steps: int = 0,
        kept: Kept = Kept(),
        tracking: Tracking | None = None,
        watched: bool = True,
    ) -> None:
        """Go on after `env_steps` steps with the rows that are `kept`; `headline` is the metric to show first.

        Raises `RunDirectoryError` if the files cannot be read or written.
        """
        self.path, self.headline, self.columns = directory / METRICS, headline, list(kept.columns)
        try:
            if self.path.exists():
                os.truncate(self.path, kept.size)
            self._tensorboard = TensorBoard(directory / TENSORBOARD, kept.rows, env_steps, headline)
            self._file = self.path.open("a", newline="", encoding="utf-8")
            durable.write(directory / HEADLINE, f"{headline}\n".encode())
        except (OSError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise RunDirectoryError(f"{short_path(directory)}: the run cannot be logged: {error}") from error
        self._names: Set[str] = frozenset()  # of the metrics in each row
        watch = (TerminalProgress if sys.stderr.isatty() else PlainProgress) if watched else NoProgress
        self._tracking = tracking
        self._watch: TerminalProgress | PlainProgress | NoProgress = watch(total_steps, env_steps)
        self._hook, threading.excepthook = threading.excepthook, self._overheard

    def write(self, env_steps: int, metrics: Mapping[str, float | None]) -> None:
        """Write one row. Raises `ValueError` unless it has the same metrics as the one before.

        Raises `RunDirectoryError` if it cannot be written, or what was written is gone.
        """
        row = {"env_steps": float(env_steps), **metrics}
        try:
            self._expect_columns(row)
            self._table().writerow({name: _cell(value) for name, value in row.items()})
            self._file.flush()
            if not os.path.samestat(os.fstat(self._file.fileno()), self.path.stat()):
                raise FileNotFoundError("it was replaced by another file")
            self._tensorboard.write(env_steps, metrics)
        except OSError as error:
            raise RunDirectoryError(f"{short_path(self.path)}: cannot be written: {error.strerror or error}") from error
        if self._tracking is not None:
            self._tracking.write(row)
        self._watch.show(env_steps, _summary(metrics, self.headline))

    def _expect_columns(self, row: Mapping[str, float | None]) -> None:
        """Take the columns from the first row. A table that an earlier version began keeps those that it has."""
        if self._names and row.keys() != self._names:
            raise ValueError(f"not the columns of the row before: {sorted(row.keys() ^ self._names)}")
        if not self.columns:
            self.columns = [*(name for name in COLUMNS if name in row), *(name for name in row if name not in COLUMNS)]
            self._table().writeheader()
        elif not self._names and (absent := row.keys() - {*self.columns}):
            log.info("%s was begun by an earlier version, and goes on without %s", METRICS, ", ".join(sorted(absent)))
        self._names = row.keys()

    def _table(self) -> csv.DictWriter[str]:
        return csv.DictWriter(self._file, self.columns, extrasaction="ignore")

    def describe(self, config: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        """Write the configuration and the versions to TensorBoard."""
        self._tensorboard.describe(config, provenance)

    def sync(self) -> int:
        """Put every row on the disk, and return the size of `metrics.csv` in bytes."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def _overheard(self, said: threading.ExceptHookArgs) -> None:
        """Ignore a full disk in TensorBoard's thread, which raises it again at the next write."""
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
    """Format counts without a decimal point, None as nothing, and everything else so that it reads back exactly."""
    if value is None:
        return ""
    return str(int(value)) if value.is_integer() else repr(value)


def _summary(metrics: Mapping[str, float | None], headline: str) -> str:
    """The headline and the other values of a line of progress."""
    label, value = "return" if headline == RETURN else headline, metrics[headline]
    beside = [form(found) for name, form in BESIDE.items() if (found := metrics.get(name)) is not None]
    return "  ".join([f"{label} {'-' if value is None else _short(value)}", *beside])


def _short(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.5g}"


class NoProgress:
    """Shows nothing: other runs share the terminal."""

    def __init__(self, total_steps: int, env_steps: int) -> None:
        pass

    def show(self, env_steps: int, summary: str) -> None:
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

    def show(self, env_steps: int, summary: str) -> None:
        self._progress.update(self._task, completed=env_steps, description=summary)

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

    def show(self, env_steps: int, summary: str) -> None:
        now = time.monotonic()
        if now - self._last < self.INTERVAL and env_steps < self._total:
            return
        self._last = now
        left = (now - self._start) * max(0, self._total - env_steps) / max(1, env_steps - self._begun)
        log.info("%s / %s steps  %s  %.0f s left", f"{env_steps:,}", f"{self._total:,}", summary, left)

    def close(self) -> None:
        log.removeHandler(self._handler)
