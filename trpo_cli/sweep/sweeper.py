"""Every combination of values, each a run: those that are missing are launched, and one that fails stops no other."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from trpo_cli.cli.tables import aligned
from trpo_cli.cli.whole_numbers import in_words
from trpo_cli.errors import ConfigError, TrainingError
from trpo_cli.run.state import FINISHED
from trpo_cli.sweep.campaign import Campaign, going_on
from trpo_cli.sweep.job import NAMELESS_JOB, Job, jobs, recorded


class Sweep(BasicSweeper):
    """The sweeper of `trpo-train -m`."""

    __module__ = "hydra_plugins.trpo_cli"  # Hydra takes sweepers from there only

    def __init__(
        self,
        max_batch_size: int | None,
        params: dict[str, str] | None,
        grids: Sequence[Mapping[str, str]] | None = None,
    ) -> None:
        """`params` are in every grid; a sweep without `grids` is one grid, of `params` and the command line."""
        super().__init__(max_batch_size, params)
        self.grids = grids or [{}]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra gives what it has composed."""
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        assert self.launcher is not None
        self.campaign = Campaign(config, hydra_context, self.launcher)

    def sweep(self, arguments: list[str]) -> None:
        """Run the jobs that are not finished. Raises `TrainingError` in the end if any failed."""
        found = self._jobs(arguments)
        self._refuse_another(found)
        if self.campaign.settings.dry_run:
            dry_run(found, self.campaign)
        else:
            size = self._at_once() or len(found)
            self._refuse_all(found)
            with self.campaign.stoppable():
                self._run(found, size)
                self.campaign.conclude()

    def _run(self, found: list[Job], size: int) -> None:
        """See all jobs to their end, so many of them at once."""
        with self.campaign as campaign:
            campaign.status.expected = len(found)
            campaign.status.add(found)
            for first in range(0, len(found), size):
                campaign.run(found[first : first + size])

    def _refuse_another(self, found: list[Job]) -> None:
        """Raise `ConfigError` if nothing was said of the jobs of a sweep that is to go on."""
        command, earlier = recorded(self.campaign.directory)
        names = [job.name for job in found]
        if self.campaign.resumed and names == [NAMELESS_JOB] and earlier and earlier[0].name != NAMELESS_JOB:
            again = going_on(command, self.campaign.directory, self.campaign.config.plugins)
            raise ConfigError(f"sweep.resume: goes on with the command of the sweep, which it is added to:\n  {again}")

    def _refuse_all(self, found: list[Job]) -> None:
        """Raise `ConfigError` if a new sweep would have no job that can begin, before it leaves anything behind."""
        problems: list[str] = []
        for job in () if self.campaign.resumed else found:
            problem = self.campaign.problem(job, self.campaign.build)
            if problem is None:
                return
            problems.append(problem)
        if problems:
            raise ConfigError(f"no job can begin; the first is {found[0].name}\n{problems[0]}")

    def _at_once(self) -> int | None:
        size = self.max_batch_size
        if size is None or (type(size) is int and size > 0):
            return size
        raise ConfigError(f"hydra.sweeper.max_batch_size: got {size}; a number of jobs fits, or null for all at once")

    def _jobs(self, arguments: list[str]) -> list[Job]:
        found: list[list[str]] = []
        for grid in self._grids():
            earlier = set(map(frozenset, found))
            found += [texts for texts in self._combinations(grid, arguments) if frozenset(texts) not in earlier]
        return jobs(found, self.campaign.directory)

    def _grids(self) -> Sequence[Mapping[str, str]]:
        if isinstance(self.grids, Sequence) and all(isinstance(grid, Mapping) for grid in self.grids):
            return self.grids
        raise ConfigError(
            f"hydra.sweeper.grids: got {self.grids}; a list of mappings fits, [{{algo: trpo, seed: '0,1'}}]"
        )

    def _combinations(self, grid: Mapping[str, str], arguments: list[str]) -> list[list[str]]:
        parsed = self.overrides_of([*(f"{key}={value}" for key, value in grid.items()), *arguments])
        for override in parsed:
            if override.is_interval_sweep():
                key = override.get_key_element()
                raise ConfigError(f"{key}: an interval has no end of values; hydra/sweeper=optuna searches it")
        [combinations] = self.split_arguments(parsed, None)
        return combinations

    def overrides_of(self, arguments: list[str]) -> list[Override]:
        """Those of a preset, and then those of the command line. Raises `ConfigError` if they name the jobs."""
        if any("hydra.run.dir=" in text for text in sys.argv):
            raise ConfigError("hydra.run.dir: is for a single run; hydra.sweep.dir=DIR is where a sweep lies")
        if any("hydra.sweep.subdir" in text for text in sys.argv):
            raise ConfigError("hydra.sweep.subdir: the jobs of a sweep are named after their overrides")
        parser = OverridesParser.create(self.campaign.context.config_loader)
        node: Any = OmegaConf.to_container(self.campaign.config)
        return parser.parse_overrides(in_words([*self._parse_config(), *arguments], node))


def dry_run(found: list[Job], campaign: Campaign) -> None:
    """List the jobs and build each, without running any. Raises `TrainingError` if some cannot begin."""
    from trpo_cli.parts import check

    rows = []
    for job in found:
        problem = campaign.problem(job, check)
        rows.append(
            ("cannot begin" if problem else campaign.state(job).status, job.name, (problem or "").partition("\n")[0])
        )
    print(aligned([("status", "job", "error"), *rows]))
    if wrong := sum(bool(problem) for _, _, problem in rows):
        raise TrainingError(f"{wrong} of {len(found)} jobs cannot begin")
    done = sum(status == FINISHED for status, _, _ in rows)
    print(f"{len(found) - done} jobs can begin{f', {done} are finished' if done else ''}; nothing was run")
