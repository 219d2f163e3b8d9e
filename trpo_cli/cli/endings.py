"""Whether a run is over, and why, and what a resumed one makes of the best checkpoint so far."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trpo_cli.cli.announcements import format_resume_command
from trpo_cli.cli.resume import Plan
from trpo_cli.config.settings import Settings
from trpo_cli.errors import ConfigError
from trpo_cli.run.progress import Best, Progress, describe_end
from trpo_cli.shell import short_path

if TYPE_CHECKING:
    from trpo_cli.run.directory import Run

log = logging.getLogger("trpo_cli")


def find_early_end(settings: Settings, progress: Progress) -> Mapping[str, Any] | None:
    """Why the run ends here although steps are left, as in the summary; None if it does not."""
    if progress.env_steps >= settings.total_steps:
        return None
    return progress.find_end(settings.stop, evaluated=settings.evaluation_interval > 0)


def is_over(run: Run, plan: Plan, settings: Settings, progress: Progress) -> bool:
    """Return whether nothing is left to do, and print a message if so.

    Raises `ConfigError` if `total_steps` is less than an unfinished run has already taken.
    """
    has_all, stopped = progress.env_steps >= settings.total_steps, find_early_end(settings, progress)
    place, steps = short_path(run.directory), f"{progress.env_steps:,} steps"
    if has_all and not run.is_finished and settings.total_steps < plan.planned:
        raise ConfigError(f"total_steps: got {settings.total_steps:,}; {place} has already taken {steps}")
    if not run.is_finished or not (has_all or stopped):
        return False
    for warning in run.warnings:
        log.warning("%s", warning)
    typed = f"total_steps={settings.total_steps:_} " if settings.total_steps != plan.planned else ""
    further = f"{typed}{stopped['by']}=null" if stopped else f"total_steps={2 * plan.planned}"
    print(f"{place} is finished, after {steps}{f'; {describe_end(stopped)}' if stopped else ''}")
    print(f"extend it:   {format_resume_command(run.directory, settings.plugins)} {further}")
    return True


def reconsider_best(run: Run, settings: Settings, progress: Progress) -> None:
    """Begin a new search for the best checkpoint if another return decides now, or if the file is gone."""
    best, by = progress.best, settings.checkpoint.best
    if best.by is None or best.env_steps is None:
        return
    if by not in (None, best.by):
        reason = f"checkpoint.best: it was chosen by {best.by} and is now chosen by {by}"
    elif not run.has_best(best.env_steps):
        reason = f"checkpoint.best: the file of step {best.env_steps:,} is gone"
    else:
        return
    run.warnings.append(f"{reason}; the next one counts as the best so far")
    progress.best = Best()
