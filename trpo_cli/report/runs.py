"""The runs below some folders, each with what became of it. Nothing is left out, nothing is disturbed."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from trpo_cli.errors import RunDirectoryError
from trpo_cli.layout import CHECKPOINTS, CONFIG, FOLDERS, LOG, METRICS, SUMMARY, near, quoted, read_config, refuse_links
from trpo_cli.lock import LOCK, is_held
from trpo_cli.settings import INDIFFERENT, flat
from trpo_cli.state import failure
from trpo_cli.statistics import Floats

EVALUATION, STEPS = "eval/episode_return_mean", "env_steps"
ITERATIONS = "iterations"  # a column of archived runs, which lack rows; elsewhere each row is one
SECONDS = ("time/sample_seconds", "time/update_seconds")
SIGNS = {METRICS, CONFIG, LOG}  # a directory with any of these is a run, or was meant to be one
EMPTY = re.compile(r"(^|,)(?=,|$)", re.MULTILINE)


@dataclass(frozen=True)
class RunRecord:
    """One run directory, as it is now."""

    directory: Path
    status: str  # finished, running, stopped, failed, broken; duplicate, if another is taken instead
    note: str = ""  # why, or what to do
    task: str = ""
    algo: str = ""
    seed: int | None = None
    choices: dict[str, str] = field(default_factory=dict)  # the option of each group
    settings: dict[str, Any] = field(default_factory=dict)  # every key of the configuration; flat
    rows: dict[str, Floats] = field(default_factory=dict)  # the columns of metrics.csv, (I,), NaN in an empty cell
    wall_seconds: float = 0.0  # of the whole run; without a summary, of sampling and updates

    @property
    def steps(self) -> int:
        """Environment steps reached."""
        steps = self.rows.get(STEPS)
        return int(steps[-1]) if steps is not None and len(steps) else 0

    def has(self, metric: str) -> bool:
        """Whether any row has the metric."""
        return metric in self.rows and not np.isnan(self.rows[metric]).all()

    def last(self, metric: str) -> float:
        """In the last row; NaN if that has none."""
        values = self.rows.get(metric)
        return float(values[-1]) if values is not None and len(values) else np.nan

    def best(self, metric: str) -> float:
        """The highest of all rows; NaN if there is none."""
        return float(np.nanmax(self.rows[metric])) if self.has(metric) else np.nan

    def where(self) -> str:
        """The directory, as text that any file can hold."""
        return str(self.directory).encode(errors="backslashreplace").decode()


def refuse_absent(folders: Sequence[Path]) -> None:
    """Raise `RunDirectoryError` for a place that is no folder."""
    for folder in folders:
        if not folder.is_dir():
            what = "a file" if folder.exists() else "no folder"
            raise RunDirectoryError(f"{folder} is {what}; a run directory fits, or a folder of them{near(folder)}")


def find(folders: Sequence[Path]) -> list[RunRecord]:
    """Every run at or below the folders, once. Raises `RunDirectoryError` for a folder that holds none."""
    found: dict[Path, Path] = {}
    refuse_absent(folders)
    for folder in folders:
        below = sorted(directories(folder))
        if not below:
            raise RunDirectoryError(f"{folder} holds no run: no {METRICS}, {CONFIG} or {LOG} at or below it")
        for directory in below:
            found.setdefault(directory.resolve(), directory)
    return [read(directory) for directory in found.values()]


def directories(folder: Path) -> Iterator[Path]:
    """Those with a sign of a run, and those that cannot be looked into. Links are not followed."""
    unreadable: list[OSError] = []
    for place, inner, files in os.walk(folder, onerror=unreadable.append):
        if SIGNS & {*files, *inner}:
            inner[:] = [name for name in inner if name not in FOLDERS]
            yield Path(place)
    yield from (Path(error.filename) for error in unreadable)


def read(directory: Path) -> RunRecord:
    """The run in `directory`. Whatever keeps it from being read is its status and note."""
    running = is_held(directory / LOCK)
    record = RunRecord(directory, "broken")
    try:
        refuse_links(directory)
        record = configured(record, read_config(directory))
        record = replace(record, rows=read_rows(directory / METRICS))
        summary = read_summary(directory / SUMMARY)
        training = sum(np.nansum(record.rows[name]) for name in SECONDS if name in record.rows)
        record = replace(record, wall_seconds=float(summary.get("wall_seconds", training)))
    except (OSError, RunDirectoryError, KeyError, TypeError, ValueError) as error:
        return unreadable(record, error, running)
    if running:
        return replace(record, status="running", note=f"{record.steps:,} of {record.settings['total_steps']:,} steps")
    if summary:
        return replace(record, status="finished")
    if reason := failure(directory):
        return replace(record, status="failed", note=reason)
    resumable = any((directory / CHECKPOINTS).glob("*.safetensors"))
    note = f"goes on with: trpo-train {quoted('resume=', directory)}" if resumable else "before its first checkpoint"
    return replace(record, status="stopped", note=note)


def unreadable(record: RunRecord, error: Exception, running: bool) -> RunRecord:
    """A run that has just begun, that failed before it had anything to show, or that is broken."""
    reason = failure(record.directory)
    status = "running" if running else "failed" if reason else "broken"
    return replace(record, status=status, note=reason or _brief(record.directory, error))


def configured(record: RunRecord, config: dict[str, Any]) -> RunRecord:
    """The record with what the configuration says."""
    settings = dict(flat({"total_steps": 0, **config}))
    chosen = {str(group): str(option) for group, option in config["choices"].items()}
    choices = {group: option for group, option in chosen.items() if not group.startswith(INDIFFERENT)}
    return replace(
        record,
        task=str(config["env"]["id"]),
        algo=choices["algo"],
        seed=config["seed"],
        choices=choices,
        settings={key: value for key, value in settings.items() if not key.startswith("choices.")},
    )


def read_rows(path: Path) -> dict[str, Floats]:
    """The columns of `metrics.csv` (I,), without a last line that is still being written.

    Raises `ValueError` for what is no table of numbers, or whose steps go back.
    """
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    header, _, body = text[: text.rfind("\n") + 1].partition("\n")
    if not header:
        return {}
    names = next(csv.reader([header]))
    if STEPS not in names:
        raise ValueError(f"{METRICS} has no column {STEPS}")
    if not body:
        return dict.fromkeys(names, np.empty(0))
    cells = io.StringIO(EMPTY.sub(r"\1nan", body.rstrip("\n")))
    try:
        table = np.loadtxt(cells, delimiter=",", comments=None, ndmin=2)
    except ValueError as error:
        raise ValueError(f"{METRICS}: {error}") from error
    if table.shape[1] != len(names):
        raise ValueError(f"{METRICS} has {len(names)} columns and rows of {table.shape[1]}")
    rows = dict(zip(names, table.T, strict=True))
    if not (np.diff(rows[STEPS], prepend=0) >= 0).all():
        raise ValueError(f"{METRICS}: {STEPS} do not grow")
    return rows


def read_summary(path: Path) -> dict[str, Any]:
    """What was written at the end; empty if there has been none. Raises `ValueError` if it is damaged."""
    if not path.exists():
        return {}
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{SUMMARY} cannot be read: {error}") from error
    if not isinstance(summary, dict):
        raise ValueError(f"{SUMMARY} is no summary")
    return {"finished": True, **summary}


def _brief(directory: Path, error: Exception) -> str:
    """An error in a line, without the directory that stands beside it."""
    said = str(error).splitlines()[0] if str(error) else ""
    said = said if isinstance(error, RunDirectoryError | ValueError) else f"{type(error).__name__}: {said}"
    return said.replace(f"{directory}/", "").replace(f"{directory}", "it")
