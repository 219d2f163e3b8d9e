"""How far a run has come, from the files in its directory alone: whoever runs it, or ran it."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trpo_cli.run.layout import CHECKPOINTS, ENDED_EARLY, LOG, METRICS, SUMMARY
from trpo_cli.run.lock import LOCK, is_held

WAITING, RUNNING, STOPPED, FAILED, FINISHED = "waiting", "running", "stopped", "failed", "finished"
ENDED = (FINISHED, FAILED)
RETURN = "rollout/episode_return_mean"
_RECORD = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (\w+) (.*)$", re.MULTILINE)  # of the log: level, message
TAIL = 65_536  # bytes: more than the last record of a log, or two rows of metrics


@dataclass(frozen=True)
class State:
    """Of one run; what is not known is None."""

    status: str
    env_steps: int | None = None
    final_training_return: float | None = None
    final_evaluation_return: float | None = None
    seconds: float | None = None
    error: str | None = None  # its first line


def state(directory: Path) -> State:
    """What the files say. A directory that is not there yet is that of a run that waits."""
    try:
        return _read(directory)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return State(FAILED, error=f"its files cannot be read: {error!r}")


def _read(directory: Path) -> State:
    if (directory / SUMMARY).is_file():
        return _finished(json.loads((directory / SUMMARY).read_text(encoding="utf-8")))
    row = _last_row(directory / METRICS)
    reached = (
        int(row["env_steps"]) if row.get("env_steps") else None,
        float(row[RETURN]) if row.get(RETURN) else None,
    )
    if is_held(directory / LOCK):
        return State(RUNNING, *reached)
    if error := failure(directory):
        return State(FAILED, *reached, error=error)
    return State(STOPPED, *reached) if (directory / CHECKPOINTS).is_dir() else State(WAITING)


def _finished(summary: dict[str, Any]) -> State:
    returns = summary.get("final_training_return"), summary.get("final_evaluation_return")
    return State(FINISHED, summary.get("env_steps"), *returns, summary.get("wall_seconds"))


def _last_row(path: Path) -> dict[str, str]:
    """The last whole row of a table that may be being written."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8") as file:
        header = file.readline()
    lines = [line for line in _tail(path).splitlines(keepends=True) if line.endswith("\n")]
    return next(csv.DictReader([header, lines[-1]])) if len(lines) > 1 else {}


def _tail(path: Path) -> str:
    """The end of a file that may be long, and is looked at often."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        return file.read(TAIL).decode(errors="replace")


def failure(directory: Path) -> str | None:
    """Why the run ended early, if that is the last word of its log."""
    path = directory / LOG
    if path.is_symlink() or not path.is_file():
        return None
    text = _tail(path)
    records = list(_RECORD.finditer(text))
    if not records or records[-1][1] != "ERROR" or not records[-1][2].startswith(ENDED_EARLY):
        return None
    said = records[-1][2].removeprefix(ENDED_EARLY).removeprefix(": ")
    return said or text.strip().splitlines()[-1]  # of a traceback, the exception
