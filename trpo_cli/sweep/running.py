"""Runs one job of a sweep, in whatever process the launcher chose for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trpo_cli.errors import UserError
from trpo_cli.run.signals import StopRequest
from trpo_cli.sweep.stopping import refuse_stopped


def run_job(train: Callable[[], None], sweep: Path) -> str | None:
    """Train a job of the sweep in the directory `sweep`, and return the problem that ended it, if any, in one line.

    Other jobs go on after a problem, whose full text is in the log of the run. Raises `Stopped` after a signal, even
    if that arrived when the job had almost ended.
    """
    with StopRequest() as stop:
        stop.check()
        refuse_stopped(sweep)
        problem = _find_problem(train)
        stop.check()
    return problem


def _find_problem(train: Callable[[], None]) -> str | None:
    try:
        train()
    except UserError as error:
        return str(error).splitlines()[0]
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None
