"""Runs the jobs of a sweep to their end with any launcher: skips finished jobs and relaunches interrupted ones."""

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

from trpo_cli.cli.mistakes import explain
from trpo_cli.cli.resume import AUTO, ONE_RUN, plan_run
from trpo_cli.cli.whole_numbers import convert_whole_numbers
from trpo_cli.config.build import fill
from trpo_cli.config.composed import Node, resolve
from trpo_cli.config.settings import Settings
from trpo_cli.errors import ConfigError, RunDirectoryError, TrainingError, UserError
from trpo_cli.parts.building import check, root_settings
from trpo_cli.report import report
from trpo_cli.run.directory import note_failure
from trpo_cli.run.layout import CONFIG, SWEEP
from trpo_cli.run.lock import LOCK, Lock
from trpo_cli.run.signals import Interruptible, Stopped, block_signals
from trpo_cli.run.state import ENDED, FAILED, FINISHED, RUNNING, State
from trpo_cli.shell import keep_working_directory, shell_argument, shell_command, short_path, start_directory
from trpo_cli.sweep.job import Job, read_status
from trpo_cli.sweep.status import Status, table
from trpo_cli.sweep.stopping import FROM_TERMINALS, NOTE, stop_jobs, tag_command

HERE = ".BasicLauncher"  # suffix of the `_target_` of the launcher that runs jobs in this process


@dataclass(frozen=True)
class SweepSettings:
    """The keys `sweep.*`."""

    resume: str | None
    dry_run: bool
    report: bool


class Campaign:
    """The jobs of one sweep or search. As a context manager, it locks their directory and prints a table at the end."""

    def __init__(self, config: DictConfig, context: HydraContext, launcher: Launcher) -> None:
        """Raises `ConfigError` if a key of `sweep` is invalid."""
        self.config, self.context, self.launcher = config, context, launcher
        self.settings: SweepSettings = fill(SweepSettings, config.sweep, "sweep.")
        self.directory = start_directory() / config.hydra.sweep.dir
        words = [text for text in sys.argv[1:] if not text.startswith(("sweep.resume=", "hydra.sweep.dir="))]
        self.status = Status(self.directory, shlex.join(["trpo-train", *words]))
        self.stop = Interruptible(self._stop_jobs)
        self._launched: Sequence[Job] = ()
        self._built: set[str] = set()  # configurations that have been tried, without their seeds

    def __enter__(self) -> Self:
        """Raises `RunDirectoryError` if the directory holds another sweep or another process uses it.

        Raises `ConfigError` if `resume` names a run, which all jobs would continue.
        """
        if self.config.resume not in (None, AUTO):
            raise ConfigError(ONE_RUN)
        place = short_path(self.directory)
        if (self.directory / SWEEP).exists() and not self.is_resumed:
            raise RunDirectoryError(
                f"{place} already holds a sweep: {shell_argument('sweep.resume=', self.directory)} continues it; "
                "hydra.sweep.dir=DIR starts another one elsewhere"
            )
        if (self.directory / CONFIG).exists():
            raise RunDirectoryError(f"{place} holds a run; choose another directory with hydra.sweep.dir=DIR")
        with contextlib.ExitStack() as stack:
            self.directory.mkdir(parents=True, exist_ok=True)
            stack.callback(Lock(self.directory / LOCK).release)
            (self.directory / NOTE).unlink(missing_ok=True)
            stack.callback(lambda: print(table(self.status.states(), self.directory), flush=True))
            self.status.earlier = read_status(self.directory)[1]
            stack.enter_context(self.status)
            self._close = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close.__exit__(kind, error, trace)

    @contextlib.contextmanager
    def stoppable(self) -> Iterator[None]:
        """On a signal, stop the sweep once its jobs have saved, and print the command that resumes it."""
        tag_command()
        try:
            with self.stop:
                yield
                self.stop.check()
        except Stopped as stopped:
            self._print_how_to_resume(stopped.by)
            raise

    def _print_how_to_resume(self, by: signal.Signals) -> None:
        if not (self.directory / SWEEP).exists():
            print(f"stopped by {by.name} before the sweep began", flush=True)
            return
        if elsewhere := sum(now.status == RUNNING for now in self.status.states().values()):
            print(f"{elsewhere} jobs keep running on other machines until they finish")
        print(f"stopped by {by.name}; to resume:\n  {self.how_to_resume}", flush=True)

    @property
    def is_resumed(self) -> bool:
        """Whether this command may continue a sweep in its directory."""
        return self.settings.resume is not None or self.config.resume == AUTO

    @property
    def how_to_resume(self) -> str:
        """The command that resumes this sweep."""
        return resume_command(self.status.command, self.directory, self.config.plugins)

    def run(self, jobs: Sequence[Job]) -> None:
        """Run each job until it finishes or fails.

        Raises `TrainingError` if the launcher breaks before any job has made progress.
        """
        self.status.add(jobs)
        missing = [job for job in jobs if self._is_pending(job)]
        self.status.refresh()
        while missing:
            before = self.status.states()
            try:
                self._launch(missing)
                self.stop.check()
                self.status.refresh()
                return
            except Exception as error:
                self.stop.check()  # the launcher may have turned a signal into another error
                self.wait(missing)
                if self.status.states() == before:
                    raise TrainingError(f"the launcher failed: {type(error).__name__}: {error}") from error
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                print(f"relaunching jobs that were cut off: {reason}", file=sys.stderr)
                missing = [job for job in missing if not self._has_ended(job, before[job.name])]

    def conclude(self) -> None:
        """Write the report if one was requested. Raises `TrainingError` if a job failed or has not finished."""
        if self.settings.report:
            self.report()
        statuses = [self.status.state(job).status for job in self.status.jobs]
        if failed := statuses.count(FAILED):
            problem = f"{failed} of {len(statuses)} jobs failed; the log of each says why"
            if not any((job.directory / CONFIG).exists() for job in self._failed()):
                place = shell_argument("sweep.resume=", self.directory)
                raise TrainingError(f"{problem}. None of them can start: correct the command and add {place}")
            raise TrainingError(f"{problem}. To try them again:\n  {self.how_to_resume}")
        if left := len(statuses) - statuses.count(FINISHED):
            raise TrainingError(
                f"{left} of {len(statuses)} jobs have not finished. To resume them:\n  {self.how_to_resume}"
            )

    def _failed(self) -> list[Job]:
        return [job for job in self.status.jobs if self.status.state(job).status == FAILED]

    def report(self) -> None:
        """Write a report on all jobs."""
        try:
            report([self.directory], self.directory / "report")
        except RunDirectoryError as error:
            print(f"no report: {error}")

    def find_problem(self, job: Job, accept: Callable[[Node, bool], None]) -> str | None:
        """Why a job cannot start or resume; None if it can.

        `accept(configuration, begins)` raises if the configuration is not acceptable for a job that begins or goes on.
        """
        try:
            node = convert_whole_numbers(resolve(self.compose(job.overrides)))
            del node["sweep"]
            plan = plan_run(job.directory, {**node, "resume": AUTO}, job.overrides)
            with keep_working_directory():  # an environment may change it
                accept(plan.config, not plan.continues)
        except (HydraException, OmegaConfBaseException) as error:
            return str(explain(error))
        except UserError as error:
            return str(error)
        return None

    def state(self, job: Job) -> State:
        """The progress of a job."""
        return self.status.state(job)

    def _is_pending(self, job: Job) -> bool:
        """Whether to launch a job: it can start, no process runs it, and steps are missing."""
        now = self.status.state(job)
        if now.status == RUNNING:
            return False
        wanted: list[Settings] = []

        def tried(node: Node, begins: bool) -> None:
            wanted.append(root_settings(node))
            if not _has_finished(now, wanted[0]):
                self.try_building(node, begins)

        if problem := self.find_problem(job, tried):
            if "\n" in problem:  # the status has room for one line only
                print(f"{job.name}: {problem}", file=sys.stderr)
            self.status.failures[job.name] = problem.splitlines()[0]
            if not (job.directory / CONFIG).exists():
                note_failure(job.directory, problem)
            return False
        return not _has_finished(now, wanted[0])

    def try_building(self, node: Node, begins: bool) -> None:
        """Find mistakes before the first job, once for all seeds; on the CPU, as jobs may run on other machines."""
        root_settings(node)
        node = {**node, "seed": 0, "device": "cpu"}
        if (key := repr((node, begins))) not in self._built:
            check(node, begins)
            self._built.add(key)

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration of a job with these overrides."""
        return self.context.config_loader.load_sweep_config(self.config, list(overrides))

    def _has_ended(self, job: Job, before: State) -> bool:
        """Whether the job has ended since `before`, which may itself be the end of an earlier, shorter run."""
        now = self.status.state(job)
        return now.status in ENDED and now != before

    def _launch(self, jobs: Sequence[Job]) -> None:
        self._launched, share = jobs, threads_per_job(self.config.hydra.launcher, len(jobs))
        overrides = [self._overrides(job, share) for job in jobs]
        here = self.config.hydra.launcher._target_.endswith(HERE)
        with contextlib.nullcontext() if here else block_signals(FROM_TERMINALS):
            results = self.launcher.launch(overrides, 0)
        for job, result in zip(jobs, results, strict=True):
            if result.return_value is not None:
                self.status.failures[job.name] = result.return_value

    def _overrides(self, job: Job, share: int | None) -> list[str]:
        resume = [] if f"resume={AUTO}" in job.overrides else [f"resume={AUTO}"]
        is_open = share and self.compose(job.overrides).sampler.get("num_threads", 0) is None
        threads = [f"sampler.num_threads={share}"] if is_open else []
        return [*job.overrides, *resume, *threads, f"hydra.sweep.subdir='{job.name}'"]

    def _stop_jobs(self, by: signal.Signals) -> None:
        stop_jobs(self.directory, self._launched, by)

    def wait(self, jobs: Sequence[Job]) -> None:
        """Wait until no process runs any of the jobs: processes of a broken launcher may still be working."""
        while any(self.status.state(job).status == RUNNING for job in jobs):
            time.sleep(0.5)


def resume_command(typed: str, directory: Path, plugins: Sequence[str]) -> str:
    """The command that resumes the sweep started by the command `typed`."""
    words = typed.removeprefix("trpo-train")
    return f"{shell_command('trpo-train', plugins)}{words} {shell_argument('sweep.resume=', directory)}"


def _has_finished(state: State, wanted: Settings) -> bool:
    """Whether a job has all the steps that are wanted, or was ended before them by what is wanted, too."""
    if state.status != FINISHED:
        return False
    limits = {f"stop.{name}": limit for name, limit in vars(wanted.stop).items()}
    is_ended = state.stopped is not None and limits.get(state.stopped["by"]) == state.stopped["given"]
    return is_ended or (state.env_steps or 0) >= wanted.total_steps


def threads_per_job(launcher: DictConfig, jobs: int) -> int | None:
    """The number of sampling threads for each of `jobs` jobs on this machine; None if the launcher is unknown."""
    from trpo_cli.threads import cores

    kind = launcher._target_.rpartition(".")[2]
    if kind == "JoblibLauncher":
        at_once: int = launcher.n_jobs if launcher.n_jobs > 0 else max(1, cores() + 1 + launcher.n_jobs)
    elif kind == "LocalLauncher":
        at_once = jobs
    else:
        return None
    return max(1, cores() // min(at_once, jobs))
