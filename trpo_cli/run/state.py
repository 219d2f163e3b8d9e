"""How far a run has come, read from the files in its directory alone, so that any process may ask."""

from __future__ import annotations

import contextlib
import csv
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trpo_cli.columns import EXACT_RETURN, RETURN
from trpo_cli.run.layout import CHECKPOINTS, ENDED_EARLY, HEADLINE, LOG, METRICS, SUMMARY
from trpo_cli.run.lock import LOCK, is_held

WAITING, RUNNING, STOPPED, FAILED, FINISHED = "waiting", "running", "stopped", "failed", "finished"
ENDED = (FINISHED, FAILED)
HEADLINES = (RETURN, EXACT_RETURN)  # of runs that do not say theirs: those of earlier versions
_RECORD = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (\w+) (.*)$", re.MULTILINE)  # of the log: level, message
_NAME = re.compile(r"[\w./-]+\n?")  # all that may be in the file of the headline
LONGEST_NAME = 200  # bytes of that file
TAIL = 65_536  # bytes: more than the last record of a log, or two rows of metrics


@dataclass(frozen=True)
class State:
    """The state of one run; None where something is not known."""

    status: str
    env_steps: int | None = None
    final_training_return: float | None = None
    final_evaluation_return: float | None = None
    seconds: float | None = None
    error: str | None = None  # its first line
    stopped: dict[str, Any] | None = None  # why it finished before `total_steps`, as in the summary


def state(directory: Path) -> State:
    """Read the state from the files. A run whose directory does not exist yet is waiting."""
    try:
        return _read(directory)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return State(FAILED, error=f"its files cannot be read: {error!r}")


def _read(directory: Path) -> State:
    if (directory / SUMMARY).is_file():
        return _finished(json.loads((directory / SUMMARY).read_text(encoding="utf-8")))
    last = _last_row(directory / METRICS)
    row = {name: cell for name, cell in last.items() if cell}
    shown = headline(directory, last, row)
    reached = (
        int(row["env_steps"]) if "env_steps" in row else None,
        float(row[shown]) if shown in row else None,
    )
    if is_held(directory / LOCK):
        return State(RUNNING, *reached)
    if error := failure(directory):
        return State(FAILED, *reached, error=error)
    return State(STOPPED, *reached) if (directory / CHECKPOINTS).is_dir() else State(WAITING)


def headline(directory: Path, columns: Collection[str], filled: Collection[str]) -> str:
    """Return the one of the `columns` that says how good the policy is; those that are `filled` have values.

    A file that is not the plain name of one of them counts as if it were missing.
    """
    path, text = directory / HEADLINE, ""
    if path.is_file():
        with contextlib.suppress(OSError), path.open("rb") as file:
            text = file.read(LONGEST_NAME).decode(errors="replace")
    if _NAME.fullmatch(text) and text.strip() in columns:
        return text.strip()
    return next((name for name in HEADLINES if name in filled), RETURN)


def _finished(summary: dict[str, Any]) -> State:
    returns = summary.get("final_training_return"), summary.get("final_evaluation_return")
    seconds, stopped = summary.get("wall_seconds"), summary.get("stopped")
    return State(FINISHED, summary.get("env_steps"), *returns, seconds, stopped=stopped)


def _last_row(path: Path) -> dict[str, str]:
    """Read the last whole row of a table that another process may be writing."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8") as file:
        header = file.readline()
    lines = [line for line in _tail(path).splitlines(keepends=True) if line.endswith("\n")]
    return next(csv.DictReader([header, lines[-1]])) if len(lines) > 1 else {}


def _tail(path: Path) -> str:
    """Read the end of a file that may be long, and is looked at often."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        return file.read(TAIL).decode(errors="replace")


def failure(directory: Path) -> str | None:
    """Why the run ended early, if the last record of its log says so."""
    path = directory / LOG
    if path.is_symlink() or not path.is_file():
        return None
    text = _tail(path)
    records = list(_RECORD.finditer(text))
    if not records or records[-1][1] != "ERROR" or not records[-1][2].startswith(ENDED_EARLY):
        return None
    said = records[-1][2].removeprefix(ENDED_EARLY).removeprefix(": ")
    return said or text.strip().splitlines()[-1]  # of a traceback, the exception
