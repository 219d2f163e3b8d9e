"""Launching jobs until each has ended: through whatever launcher, again where it broke off, skipping what is done."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from trpo_cli.cli.mistakes import explained
from trpo_cli.cli.resume import AUTO, ONE_RUN, planned
from trpo_cli.cli.whole_numbers import with_whole_numbers
from trpo_cli.config.build import fill
from trpo_cli.config.composed import Node, described
from trpo_cli.errors import ConfigError, RunDirectoryError, TrainingError, UserError
from trpo_cli.parts import check, root_settings
from trpo_cli.report import report
from trpo_cli.run.directory import note_failure
from trpo_cli.run.layout import CONFIG, SWEEP, command, home, quoted, relative, staying
from trpo_cli.run.lock import LOCK, Lock
from trpo_cli.run.signals import Interruptible, Stopped, unheard
from trpo_cli.run.state import ENDED, FAILED, FINISHED, RUNNING, State
from trpo_cli.sweep.job import Job, recorded
from trpo_cli.sweep.status import Status, table
from trpo_cli.sweep.stopping import FROM_TERMINALS, NOTE, let_end, name_command

HERE = ".BasicLauncher"  # how the target of the launcher ends that runs jobs in this process


@dataclass(frozen=True)
class SweepSettings:
    """The keys `sweep.*`."""

    resume: str | None
    dry_run: bool
    report: bool


class Campaign:
    """The jobs of one sweep or search. As a context manager it holds their directory, and ends with a table."""

    def __init__(self, config: DictConfig, context: HydraContext, launcher: Launcher) -> None:
        """Raises `ConfigError` if a key of `sweep` does not fit."""
        self.config, self.context, self.launcher = config, context, launcher
        self.settings: SweepSettings = fill(SweepSettings, config.sweep, "sweep.")
        self.directory = home() / config.hydra.sweep.dir
        words = [text for text in sys.argv[1:] if not text.startswith(("sweep.resume=", "hydra.sweep.dir="))]
        self.status = Status(self.directory, shlex.join(["trpo-train", *words]))
        self.stop = Interruptible(self._let_end)
        self._launched: Sequence[Job] = ()
        self._built: set[str] = set()  # configurations that were tried, but for the seed

    def __enter__(self) -> Self:
        """Raises `RunDirectoryError` if the directory holds another sweep, or another process is at it.

        `ConfigError` if all the jobs are to go on with one run.
        """
        if self.config.resume not in (None, AUTO):
            raise ConfigError(ONE_RUN)
        place = relative(self.directory)
        if (self.directory / SWEEP).exists() and not self.resumed:
            raise RunDirectoryError(
                f"{place} holds a sweep already: {quoted('sweep.resume=', self.directory)} continues it, "
                "and hydra.sweep.dir=DIR begins another"
            )
        if (self.directory / CONFIG).exists():
            raise RunDirectoryError(f"{place} holds a run: hydra.sweep.dir=DIR names another place")
        with contextlib.ExitStack() as stack:
            self.directory.mkdir(parents=True, exist_ok=True)
            stack.callback(Lock(self.directory / LOCK).release)
            (self.directory / NOTE).unlink(missing_ok=True)
            stack.callback(lambda: print(table(self.status.states(), self.directory), flush=True))
            self.status.earlier = recorded(self.directory)[1]
            stack.enter_context(self.status)
            self._close = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close.__exit__(kind, error, trace)

    @contextlib.contextmanager
    def stoppable(self) -> Iterator[None]:
        """Within it a signal stops the sweep, wherever it is, once its jobs have saved; how it goes on is said."""
        name_command()
        try:
            with self.stop:
                yield
                self.stop.check()
        except Stopped as stopped:
            self._say_how_to_go_on(stopped.by)
            raise

    def _say_how_to_go_on(self, by: signal.Signals) -> None:
        if not (self.directory / SWEEP).exists():
            print(f"stopped by {by.name} before the sweep began", flush=True)
            return
        if elsewhere := sum(now.status == RUNNING for now in self.status.states().values()):
            print(f"still running on other machines, to their ends: {elsewhere} of the jobs")
        print(f"stopped by {by.name}; go on from there:\n  {self.again}", flush=True)

    @property
    def resumed(self) -> bool:
        """Whether the directory may hold the sweep already."""
        return self.settings.resume is not None or self.config.resume == AUTO

    @property
    def again(self) -> str:
        """The command that goes on."""
        return going_on(self.status.command, self.directory, self.config.plugins)

    def run(self, jobs: Sequence[Job]) -> None:
        """See each job to its end, be that a failure.

        Raises `TrainingError` if the launcher breaks before any of them has come further.
        """
        self.status.add(jobs)
        missing = [job for job in jobs if self._to_do(job)]
        self.status.look()
        while missing:
            before = self.status.states()
            try:
                self._launch(missing)
                self.stop.check()
                self.status.look()
                return
            except Exception as error:
                self.stop.check()  # a signal can become any error on its way
                self.wait(missing)
                if self.status.states() == before:
                    raise TrainingError(f"the launcher ended early: {type(error).__name__}: {error}") from error
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                print(f"jobs were cut off, and are launched again: {reason}", file=sys.stderr)
                missing = [job for job in missing if not self._has_ended(job, before[job.name])]

    def conclude(self) -> None:
        """Draw the report that was asked for. Raises `TrainingError` if a job failed, or is not finished."""
        if self.settings.report:
            self.report()
        statuses = [self.status.state(job).status for job in self.status.jobs]
        if failed := statuses.count(FAILED):
            told = f"{failed} of {len(statuses)} jobs failed; the log of each tells why"
            if not any((job.directory / CONFIG).exists() for job in self._failed()):
                place = quoted("sweep.resume=", self.directory)
                raise TrainingError(f"{told}. None of them can begin: mend the command, and add {place}")
            raise TrainingError(f"{told}. To try them again:\n  {self.again}")
        if left := len(statuses) - statuses.count(FINISHED):
            raise TrainingError(f"{left} of {len(statuses)} jobs are not finished. To go on with them:\n  {self.again}")

    def _failed(self) -> list[Job]:
        return [job for job in self.status.jobs if self.status.state(job).status == FAILED]

    def report(self) -> None:
        """Draw the curves of all jobs."""
        try:
            report([self.directory], self.directory / "report", against=["env_steps", "iterations"])
        except RunDirectoryError as error:
            print(f"no report: {error}")

    def problem(self, job: Job, accept: Callable[[Node], None]) -> str | None:
        """Why a job cannot begin, or go on, `accept` having a say; None if it can."""
        try:
            node = with_whole_numbers(described(self.composed(job.overrides)))
            del node["sweep"]
            plan = planned(job.directory, {**node, "resume": AUTO}, job.overrides)
            with staying():  # what is built may go elsewhere
                accept(plan.config)
        except (HydraException, OmegaConfBaseException) as error:
            return str(explained(error))
        except UserError as error:
            return str(error)
        return None

    def state(self, job: Job) -> State:
        """How far a job has come."""
        return self.status.state(job)

    def _to_do(self, job: Job) -> bool:
        """Whether it is to be launched: it can begin, nobody is at it, and it has not all its steps."""
        now = self.status.state(job)
        if now.status == RUNNING:
            return False
        wanted: list[int] = []

        def tried(node: Node) -> None:
            wanted.append(root_settings(node).total_steps)
            if not _has_come(now, wanted[0]):
                self.build(node)

        if problem := self.problem(job, tried):
            if "\n" in problem:  # the status has one line
                print(f"{job.name}: {problem}", file=sys.stderr)
            self.status.failures[job.name] = problem.splitlines()[0]
            if not (job.directory / CONFIG).exists():
                note_failure(job.directory, problem)
            return False
        return not _has_come(now, wanted[0])

    def build(self, node: Node) -> None:
        """Find mistakes before the first job, once for all seeds; what a job runs on is not at hand here, perhaps."""
        root_settings(node)
        node = {**node, "seed": 0, "device": "cpu"}
        if (key := repr(node)) not in self._built:
            check(node)
            self._built.add(key)

    def composed(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration of a job with these."""
        return self.context.config_loader.load_sweep_config(self.config, list(overrides))

    def _has_ended(self, job: Job, before: State) -> bool:
        """Whether it came to an end since then: before, it may have had one from which it was to go on."""
        now = self.status.state(job)
        return now.status in ENDED and now != before

    def _launch(self, jobs: Sequence[Job]) -> None:
        self._launched, share = jobs, threads_each(self.config.hydra.launcher, len(jobs))
        overrides = [self._overrides(job, share) for job in jobs]
        here = self.config.hydra.launcher._target_.endswith(HERE)
        with contextlib.nullcontext() if here else unheard(FROM_TERMINALS):
            results = self.launcher.launch(overrides, 0)
        for job, result in zip(jobs, results, strict=True):
            if result.return_value is not None:
                self.status.failures[job.name] = result.return_value

    def _overrides(self, job: Job, share: int | None) -> list[str]:
        resume = [] if f"resume={AUTO}" in job.overrides else [f"resume={AUTO}"]
        open_ = share and self.composed(job.overrides).sampler.get("num_threads", 0) is None
        threads = [f"sampler.num_threads={share}"] if open_ else []
        return [*job.overrides, *resume, *threads, f"hydra.sweep.subdir='{job.name}'"]

    def _let_end(self, by: signal.Signals) -> None:
        let_end(self.directory, self._launched, by)

    def wait(self, jobs: Sequence[Job]) -> None:
        """Until nobody is at any of them: what a broken launcher left may still be at work."""
        while any(self.status.state(job).status == RUNNING for job in jobs):
            time.sleep(0.5)


def going_on(typed: str, directory: Path, plugins: Sequence[str]) -> str:
    """The command that goes on with the sweep that was typed so."""
    words = typed.removeprefix("trpo-train")
    return f"{command('trpo-train', plugins)}{words} {quoted('sweep.resume=', directory)}"


def _has_come(state: State, steps: int) -> bool:
    return state.status == FINISHED and (state.env_steps or 0) >= steps


def threads_each(launcher: DictConfig, jobs: int) -> int | None:
    """How many threads each of so many jobs samples on, if they share this machine; None where that is not known."""
    from trpo_cli.envs.make import cores

    kind = launcher._target_.rpartition(".")[2]
    if kind == "JoblibLauncher":
        at_once: int = launcher.n_jobs if launcher.n_jobs > 0 else max(1, cores() + 1 + launcher.n_jobs)
    elif kind == "LocalLauncher":
        at_once = jobs
    else:
        return None
    return max(1, cores() // min(at_once, jobs))
