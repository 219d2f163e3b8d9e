"""Find all runs below some folders, and read each with its status. No run is changed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from trpo_cli.columns import RETURN, STEPS
from trpo_cli.config.settings import INDIFFERENT, LATER, flatten, format_setting
from trpo_cli.errors import RunDirectoryError
from trpo_cli.run.layout import (
    ALL_ROWS,
    CHECKPOINTS,
    CONFIG,
    FOLDERS,
    LOG,
    METRICS,
    SUMMARY,
    read_config,
    refuse_links,
    suggest_run,
)
from trpo_cli.run.lock import LOCK, is_held
from trpo_cli.run.progress import AT_RETURN, describe_end
from trpo_cli.run.rows import read_json, read_rows
from trpo_cli.run.state import failure, headline
from trpo_cli.shell import shell_argument
from trpo_cli.statistics import Floats

RESULTS = "results.csv"  # of an archive: one line for each run, with these columns
SUMMARISED = ("env_steps", "final_training_return", "final_evaluation_return", "best_training_return", "wall_seconds")
HEADER = ["task", "algo", "seed", *SUMMARISED]
ITERATIONS = "iterations"  # a column of archived runs, which lack rows; elsewhere each row is one
SECONDS = ("time/sample_seconds", "time/update_seconds")
SIGNS = {METRICS, CONFIG, LOG}  # a directory with any of these is a run, or was meant to be one


@dataclass(frozen=True)
class Whole:
    """A summary of all rows of a run, which an archive keeps beside fewer rows."""

    rises: dict[str, tuple[Floats, Floats]]  # of a column: where it was higher than ever before, steps and value (B,)
    diagnostics: dict[str, float]  # by the names of `diagnostics.MEASURES`

    @classmethod
    def read(cls, path: Path) -> Whole | None:
        """None where there is no such file. Raises `ValueError`, `KeyError` or `TypeError` if it is damaged."""
        if not (kept := read_json(path)):
            return None
        rises = {name: np.array(pairs, dtype=float).reshape(-1, 2).T for name, pairs in kept["rises"].items()}
        diagnostics = {name: float(value) for name, value in kept["diagnostics"].items()}
        return cls({name: (steps, values) for name, (steps, values) in rises.items()}, diagnostics)

    def to_json(self) -> str:
        """Return JSON with pairs of steps and values."""
        rises = {name: np.stack(pair, axis=1).tolist() for name, pair in self.rises.items()}
        return json.dumps({"rises": rises, "diagnostics": self.diagnostics}) + "\n"


@dataclass(frozen=True)
class RunRecord:
    """The present state of one run directory."""

    directory: Path
    status: str  # finished, running, stopped, failed, broken; duplicate, if another is taken instead
    note: str = ""  # why, or what to do
    task: str = ""
    algo: str = ""
    seed: int | None = None
    choices: dict[str, str] = field(default_factory=dict)  # the option of each group
    settings: dict[str, Any] = field(default_factory=dict)  # every key of the configuration; flat
    rows: dict[str, Floats] = field(default_factory=dict)  # the columns of metrics.csv, (I,), NaN in an empty cell
    headline: str = RETURN  # the column that says how good the policy is
    whole: Whole | None = None  # of an archived run
    goal: float | None = None  # the return that ended it early, by `stop.at_return`
    wall_seconds: float = 0.0  # of the whole run; without a summary, of sampling and updates

    @property
    def steps(self) -> int:
        """Environment steps reached."""
        steps = self.rows.get(STEPS)
        return int(steps[-1]) if steps is not None and len(steps) else 0

    def count_rows(self) -> int:
        """Return the number of rows."""
        return len(next(iter(self.rows.values()), ()))

    def has(self, metric: str) -> bool:
        """Whether any row has the metric."""
        return metric in self.rows and not np.isnan(self.rows[metric]).all()

    def last(self, metric: str) -> float:
        """Return the value in the last row, NaN if it has none."""
        values = self.rows.get(metric)
        return float(values[-1]) if values is not None and len(values) else np.nan

    def best(self, metric: str) -> float:
        """Return the highest value of all rows, NaN if there is none."""
        return float(np.nanmax(self.rows[metric])) if self.has(metric) else np.nan

    def is_thinned(self) -> bool:
        """Whether it is an archived run that lacks rows."""
        iterations = self.rows.get(ITERATIONS)
        return iterations is not None and bool((iterations > len(iterations)).any())

    def where(self) -> str:
        """The directory, as text that any file can hold."""
        return str(self.directory).encode(errors="backslashreplace").decode()


def refuse_absent(folders: Sequence[Path]) -> None:
    """Raise `RunDirectoryError` for a place that is no folder."""
    for folder in folders:
        if not folder.is_dir():
            what = "a file" if folder.exists() else "no folder"
            raise RunDirectoryError(
                f"{folder} is {what}; a run directory fits, or a folder of them{suggest_run(folder)}"
            )


def find(folders: Sequence[Path]) -> list[RunRecord]:
    """Every run at or below the folders, once, but for those of archives below them: they are others' results.

    Raises `RunDirectoryError` for a folder that holds none.
    """
    found: dict[Path, Path] = {}
    refuse_absent(folders)
    for folder in folders:
        below = sorted(find_directories(folder))
        if not below:
            raise RunDirectoryError(
                f"{folder} holds no run: no {METRICS}, {CONFIG} or {LOG} at or below it{_mention_archives(folder)}"
            )
        for directory in below:
            found.setdefault(directory.resolve(), directory)
    return [read(directory) for directory in found.values()]


def _mention_archives(folder: Path) -> str:
    left_out = [str(archive) for archive in find_archives(folder)]
    return f"; to report on an archive, name it: {', '.join(left_out)}" if left_out else ""


def find_archives(folder: Path) -> list[Path]:
    """The archives of `trpo-report` below a folder, itself and those in other archives aside."""
    found: list[Path] = []
    for place in sorted(path.parent for path in folder.rglob(RESULTS)):
        if place != folder and not set(found) & {*place.parents} and is_archive(place):
            found.append(place)
    return found


def is_archive(folder: Path) -> bool:
    """Whether a folder has the table of an archive."""
    table = folder / RESULTS
    if not table.is_file():
        return False
    with table.open(encoding="utf-8", errors="replace") as file:
        return file.readline().rstrip("\n") == ",".join(HEADER)


def find_directories(folder: Path) -> Iterator[Path]:
    """Those with a sign of a run, and those that cannot be looked into. Links and archives below are not followed."""
    unreadable: list[OSError] = []
    for place, inner, files in os.walk(folder, onerror=unreadable.append):
        if RESULTS in files and Path(place) != folder and is_archive(Path(place)):
            inner.clear()
        elif SIGNS & {*files, *inner}:
            inner[:] = [name for name in inner if name not in FOLDERS]
            yield Path(place)
    yield from (Path(error.filename) for error in unreadable)


def read(directory: Path) -> RunRecord:
    """Read the run in `directory`. If it cannot be read, its status and note say why."""
    running = is_held(directory / LOCK)
    record = RunRecord(directory, "broken")
    try:
        refuse_links(directory)
        record = with_configuration(record, read_config(directory))
        record = replace(record, rows=read_rows(directory / METRICS), whole=Whole.read(directory / ALL_ROWS))
        filled = list(filter(record.has, record.rows))
        record = replace(record, headline=headline(directory, record.rows, filled))
        summary = read_summary(directory / SUMMARY)
        training = sum(np.nansum(record.rows[name]) for name in SECONDS if name in record.rows)
        record = replace(record, wall_seconds=float(summary.get("wall_seconds", training)))
        stopped = summary.get("stopped") or {}
        early = f"ended early by {describe_end(stopped)}" if stopped else ""
        if stopped.get("by") == AT_RETURN:
            record = replace(record, goal=_read_goal(stopped))
    except (OSError, RunDirectoryError, KeyError, TypeError, ValueError, AttributeError) as error:
        return explain_unreadable(record, error, running)
    if running:
        return replace(record, status="running", note=f"{record.steps:,} of {record.settings['total_steps']:,} steps")
    if summary:
        return replace(record, status="finished", note=early)
    if reason := failure(directory):
        return replace(record, status="failed", note=reason)
    resumable = any((directory / CHECKPOINTS).glob("*.safetensors"))
    note = (
        f"goes on with: trpo-train {shell_argument('resume=', directory)}"
        if resumable
        else "before its first checkpoint"
    )
    return replace(record, status="stopped", note=note)


def explain_unreadable(record: RunRecord, error: Exception, running: bool) -> RunRecord:
    """The record of a run that has just begun, failed before it had anything to show, or is broken."""
    reason = failure(record.directory)
    status = "running" if running else "failed" if reason else "broken"
    return replace(record, status=status, note=reason or _summarise_error(record.directory, error))


def with_configuration(record: RunRecord, config: dict[str, Any]) -> RunRecord:
    """The record with the task, algorithm, seed and settings of the configuration."""
    settings = {**LATER, **dict(flatten({"total_steps": 0, **config}))}
    chosen = {str(group): format_setting(option) for group, option in config["choices"].items()}
    choices = {group: option for group, option in chosen.items() if not group.startswith(INDIFFERENT)}
    return replace(
        record,
        task=str(config["env"]["id"]),
        algo=choices["algo"],
        seed=config["seed"],
        choices=choices,
        settings={key: value for key, value in settings.items() if not key.startswith("choices.")},
    )


def _read_goal(stopped: dict[str, Any]) -> float:
    """Read the return that ended a run. Raises `ValueError` if it is no number."""
    if not np.isfinite(goal := float(stopped["given"])):
        raise ValueError(f"{SUMMARY}: {AT_RETURN} is {goal}")
    return goal


def read_summary(path: Path) -> dict[str, Any]:
    """Read the summary; empty if the run has not ended. Raises `ValueError` if it is damaged."""
    summary = read_json(path)
    return {"finished": True, **summary} if path.exists() else {}


def _summarise_error(directory: Path, error: Exception) -> str:
    """An error in one line, without the directory, which stands beside it."""
    said = str(error).splitlines()[0] if str(error) else ""
    said = said if isinstance(error, RunDirectoryError | ValueError) else f"{type(error).__name__}: {said}"
    return said.replace(f"{directory}/", "").replace(f"{directory}", "it")
