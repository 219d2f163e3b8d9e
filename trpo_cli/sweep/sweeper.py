"""Runs every combination of values as a job. Finished jobs are skipped, and a failing one does not stop the others."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from trpo_cli.cli.tables import format_table
from trpo_cli.cli.whole_numbers import rewrite_overrides
from trpo_cli.errors import ConfigError, TrainingError
from trpo_cli.run.state import FINISHED
from trpo_cli.sweep.campaign import Campaign, resume_command
from trpo_cli.sweep.job import UNNAMED_JOB, Job, make_jobs, read_status


class Sweep(BasicSweeper):
    """The sweeper of `trpo-train -m`."""

    __module__ = "hydra_plugins.trpo_cli"  # Hydra accepts sweepers from this namespace only

    def __init__(
        self,
        max_batch_size: int | None,
        params: dict[str, str] | None,
        grids: Sequence[Mapping[str, str]] | None = None,
    ) -> None:
        """`params` apply to every grid. Without `grids`, there is one grid, of `params` and the command line."""
        super().__init__(max_batch_size, params)
        self.grids = grids or [{}]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra with the composed configuration."""
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        assert self.launcher is not None
        self.campaign = Campaign(config, hydra_context, self.launcher)

    def sweep(self, arguments: list[str]) -> None:
        """Run the jobs that have not finished. Raises `TrainingError` at the end if any of them failed."""
        found = self._make_jobs(arguments)
        self._refuse_bare_resume(found)
        if self.campaign.settings.dry_run:
            dry_run(found, self.campaign)
        else:
            size = self._batch_size() or len(found)
            self._refuse_hopeless_sweep(found)
            with self.campaign.stoppable():
                self._run(found, size)
                self.campaign.conclude()

    def _run(self, found: list[Job], size: int) -> None:
        """Run all jobs to their end, `size` of them at a time."""
        with self.campaign as campaign:
            campaign.status.expected = len(found)
            campaign.status.add(found)
            for first in range(0, len(found), size):
                campaign.run(found[first : first + size])

    def _refuse_bare_resume(self, found: list[Job]) -> None:
        """Raise `ConfigError` if a sweep is resumed without its overrides."""
        command, earlier = read_status(self.campaign.directory)
        names = [job.name for job in found]
        if self.campaign.is_resumed and names == [UNNAMED_JOB] and earlier and earlier[0].name != UNNAMED_JOB:
            again = resume_command(command, self.campaign.directory, self.campaign.config.plugins)
            raise ConfigError(f"sweep.resume: repeat the command of the sweep, and add it to that:\n  {again}")

    def _refuse_hopeless_sweep(self, found: list[Job]) -> None:
        """Raise `ConfigError` if no job of a new sweep can start, before anything is written."""
        problems: list[str] = []
        for job in () if self.campaign.is_resumed else found:
            problem = self.campaign.find_problem(job, self.campaign.try_building)
            if problem is None:
                return
            problems.append(problem)
        if problems:
            raise ConfigError(f"no job can start. The first one is {found[0].name}:\n{problems[0]}")

    def _batch_size(self) -> int | None:
        size = self.max_batch_size
        if size is None or (type(size) is int and size > 0):
            return size
        raise ConfigError(
            f"hydra.sweeper.max_batch_size: got {size}; give a number of jobs, or null to run all at once"
        )

    def _make_jobs(self, arguments: list[str]) -> list[Job]:
        found: list[list[str]] = []
        for grid in self._grids():
            earlier = set(map(frozenset, found))
            found += [texts for texts in self._combinations(grid, arguments) if frozenset(texts) not in earlier]
        return make_jobs(found, self.campaign.directory)

    def _grids(self) -> Sequence[Mapping[str, str]]:
        if isinstance(self.grids, Sequence) and all(isinstance(grid, Mapping) for grid in self.grids):
            return self.grids
        raise ConfigError(
            f"hydra.sweeper.grids: got {self.grids}; give a list of mappings, such as [{{algo: trpo, seed: '0,1'}}]"
        )

    def _combinations(self, grid: Mapping[str, str], arguments: list[str]) -> list[list[str]]:
        parsed = self.parse_overrides([*(f"{key}={value}" for key, value in grid.items()), *arguments])
        for override in parsed:
            if override.is_interval_sweep():
                key = override.get_key_element()
                raise ConfigError(f"{key}: an interval has infinitely many values; hydra/sweeper=optuna can search it")
        [combinations] = self.split_arguments(parsed, None)
        return combinations

    def parse_overrides(self, arguments: list[str]) -> list[Override]:
        """The overrides of a preset, then those of the command line. Raises `ConfigError` if they name directories."""
        if any("hydra.run.dir=" in text for text in sys.argv):
            raise ConfigError("hydra.run.dir: applies to a single run; a sweep takes hydra.sweep.dir=DIR")
        if any("hydra.sweep.subdir" in text for text in sys.argv):
            raise ConfigError(
                "hydra.sweep.subdir: cannot be set, since the jobs of a sweep are named after their overrides"
            )
        parser = OverridesParser.create(self.campaign.context.config_loader)
        node: Any = OmegaConf.to_container(self.campaign.config)
        return parser.parse_overrides(rewrite_overrides([*self._parse_config(), *arguments], node))


def dry_run(found: list[Job], campaign: Campaign) -> None:
    """List the jobs and build each of them without running any. Raises `TrainingError` if some cannot start."""
    from trpo_cli.parts.building import check

    rows = []
    for job in found:
        problem = campaign.find_problem(job, check)
        rows.append(
            ("cannot start" if problem else campaign.state(job).status, job.name, (problem or "").partition("\n")[0])
        )
    print(format_table([("status", "job", "error"), *rows]))
    if wrong := sum(bool(problem) for _, _, problem in rows):
        raise TrainingError(f"{wrong} of {len(found)} jobs cannot start")
    done = sum(status == FINISHED for status, _, _ in rows)
    print(f"{len(found) - done} jobs can start{f', {done} are finished' if done else ''}; nothing was run")
