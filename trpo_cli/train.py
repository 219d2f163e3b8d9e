"""trpo-train: compose the configuration, build the parts, then collect -> estimate -> update -> log -> save.

Read this module first. `algos/policy_gradient.py` has one iteration, and `trust_region/update.py` one step;
`parts/building.py` builds the parts of a run, and `cli/resume.py` decides how a run resumes. torch is imported inside
functions, so that `--help` and shell completion answer at once.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from trpo_cli.cli.announcements import announce, hint_at_resume, print_results
from trpo_cli.cli.answers import answer
from trpo_cli.cli.command_line import allow_new_keys, check_overrides, read
from trpo_cli.cli.endings import find_early_end, is_over, reconsider_best
from trpo_cli.cli.failures import discard_empty, exit_on_user_error, report_errors
from trpo_cli.cli.in_process import make_callable
from trpo_cli.cli.resume import expand_resume, plan_run
from trpo_cli.cli.search_path import search_everywhere
from trpo_cli.cli.whole_numbers import convert_whole_numbers, write_whole_numbers
from trpo_cli.config.composed import Node, resolve
from trpo_cli.config.groups import CONF
from trpo_cli.config.settings import EVAL, Settings
from trpo_cli.errors import EnvironmentContractError, EnvironmentFault
from trpo_cli.memory import explain_out_of_memory
from trpo_cli.parts import Parts
from trpo_cli.parts.building import build_tracker, root_settings
from trpo_cli.parts.following import build_everywhere, run_together
from trpo_cli.play.episodes import Episodes, columns
from trpo_cli.run.layout import report_mismatch
from trpo_cli.run.progress import Progress, describe_end
from trpo_cli.run.signals import Stopped, StopRequest
from trpo_cli.schedules import is_due
from trpo_cli.shell import started_in

if TYPE_CHECKING:
    from trpo_cli.algos import Metrics
    from trpo_cli.run.directory import Run
    from trpo_cli.run.logger import Kept, Logger

log = logging.getLogger("trpo_cli")


def train(given: Node, overrides: Sequence[str], directory: Path, in_sweep: bool = False, watched: bool = True) -> None:
    """Start a run in `directory`, or resume the one in it, and train until it is finished.

    `given` is the resolved configuration that the `overrides` compose to. A run of a sweep logs errors with their
    tracebacks. Progress is shown if the run is `watched`.
    """
    from trpo_cli.config.build import fill
    from trpo_cli.config.plugins import import_plugins
    from trpo_cli.play.origin import ORIGIN
    from trpo_cli.run.directory import Run, find_versions
    from trpo_cli.run.logger import Kept, Logger
    from trpo_cli.run.trackers import Tracking
    from trpo_cli.seeding import seed_globals

    log.setLevel(logging.INFO)
    with Run(directory, in_sweep) as run, explain_out_of_memory():
        plan = plan_run(directory, given, overrides)
        state = run.load() if plan.continues else None
        settings = root_settings({**plan.config, "plugins": given["plugins"]})
        progress = fill(Progress, state.get("progress", {}), "progress.") if state else Progress()
        if is_over(run, plan, settings, progress):
            return
        reconsider_best(run, settings, progress)
        seed_globals(settings.seed, "plugins")  # importing them may draw random numbers
        import_plugins(settings.plugins)
        tracker = build_tracker(plan.config, settings)
        parts = build_everywhere(plan.config, settings, begins=state is None)
        run.provenance["versions"] |= find_versions(parts.packages)
        if origin := state.get(ORIGIN) if state else parts.origin:
            run.provenance[ORIGIN] = origin
        with contextlib.closing(parts):
            kept = restore(parts, settings, progress, state, run) if state else Kept()
            with Tracking(tracker, plan.config, directory, progress.env_steps) as tracking:
                run.begin(plan.config)
                headline, total = parts.algorithm.headline, settings.total_steps
                logger = Logger(directory, headline, total, progress.env_steps, kept, tracking, watched)
                with hint_at_resume(run, settings, in_sweep), logger, StopRequest() as stop:
                    logger.describe(plan.config, run.provenance)
                    announce(parts, progress, plan, run, overrides)
                    Training(settings, parts, run, logger, stop, progress).finish()
            if stopped := find_early_end(settings, progress):
                log.info("ended early by %s", describe_end(stopped))
            run.finish(progress.summary(stopped))
    if not in_sweep:
        print_results(parts, progress, settings, directory, stopped)


def restore(parts: Parts, settings: Settings, progress: Progress, state: dict[str, Any], run: Run) -> Kept:
    """Restore everything from the `state` of a checkpoint, and return what `metrics.csv` held at that time.

    Environments that cannot be restored are replaced by new ones. Raises `RunDirectoryError` if the state does not fit.
    """
    from trpo_cli.run.logger import Kept
    from trpo_cli.seeding import restore_global_generators

    with report_mismatch(run.directory):
        parts.load_state_dict(state)
        if state["environments"] is None:
            progress.inexact_resumes += 1
            run.warnings.append("this resume is not exact: the environments were reset")
            parts.renew_environments(settings.seed, f"resume {progress.inexact_resumes}")
        restore_global_generators(state["generators"], settings.device)
        return Kept.read(run.directory, int(state["metrics_bytes"]), state.get("metrics_columns", ()))


@dataclass
class Training:
    """The training loop of a run, up to `total_steps`."""

    settings: Settings
    parts: Parts
    run: Run
    logger: Logger
    stop: StopRequest
    progress: Progress
    faults_in_a_row: int = 0
    warned: set[str] = field(default_factory=set)  # reasons for skipped evaluations that have been logged

    def __post_init__(self) -> None:
        self._started = time.monotonic() - self.progress.seconds

    def finish(self) -> None:
        """Iterate to the end, and save a checkpoint whenever one is due.

        Raises `Stopped` after a signal, `EnvironmentFault` after too many faults in a row, and
        `EnvironmentContractError` immediately. Every use of the environments, saving included, may reveal a fault.
        """
        due_now = not self.progress.iterations
        while True:
            try:
                self.recover()
                if due_now or self.stop.signal is not None:
                    self.save()
                if self._is_over():
                    return
                if self.stop.signal is not None:
                    raise Stopped(self.stop.signal)
                env_steps, metrics = self.iterate()
            except EnvironmentFault as fault:
                self.survive(fault)
                continue
            except EnvironmentContractError as misfit:
                raise EnvironmentContractError(f"{misfit}\n{self.intact}") from misfit
            self.parts.algorithm.require_headline(metrics)
            self.logger.write(env_steps, metrics)
            self.progress.note(env_steps, metrics, self.parts.algorithm.headline)
            due_now = self.judge()

    def recover(self) -> None:
        """Make new environments if the last sample was spoiled."""
        if self.faults_in_a_row:
            self.parts.renew_environments(self.settings.seed, f"fault {self.progress.faults}")

    def iterate(self) -> tuple[int, Metrics]:
        """Collect, estimate, update, and evaluate if due. Returns the environment steps so far, and the metrics."""
        before = self.parts.sampler.env_steps
        done = self.parts.iterate(self.progress.env_steps / self.settings.total_steps)
        self.faults_in_a_row = 0
        return done.env_steps, {
            **done.metrics,
            **self.evaluate(done.env_steps),  # which may count a fault
            **{f"rollout/{name}": float(getattr(self.progress, name)) for name in ("faults", "inexact_resumes")},
            "time/steps_per_second": (done.env_steps - before) / (done.sample_seconds + done.update_seconds),
            "time/sample_seconds": done.sample_seconds,
            "time/update_seconds": done.update_seconds,
        }

    def survive(self, fault: EnvironmentFault) -> None:
        """Count a spoiled sample. Raises `EnvironmentFault` if too many were spoiled in a row."""
        self.progress.faults += 1
        self.faults_in_a_row += 1
        patience = self.settings.fault_patience
        if self.faults_in_a_row > patience:
            raise EnvironmentFault(
                f"{fault}\nthis is one more fault in a row than fault_patience={patience} allows; {self.intact}"
            ) from fault
        log.warning("%s; its sample is dropped, and new environments are made", fault)

    def evaluate(self, steps: int) -> Metrics:
        """Return the metrics of an evaluation after `steps`; all None if none is due, or if a fault spoiled it.

        A fault that recurs in later evaluations is logged once.
        """
        plan, nothing = self.settings.eval, dict.fromkeys(columns(self.parts.task.log_info))
        every = self.settings.evaluation_interval
        if not every or not (self._is_last(steps) or is_due(every, self.progress.env_steps, steps)):
            return nothing
        try:
            return self.parts.evaluate(Episodes(plan.episodes, plan.max_episode_steps), self.settings.seed).metrics()
        except EnvironmentFault as fault:
            self.progress.faults += 1
            if str(fault) not in self.warned:
                self.warned.add(str(fault))
                log.warning("%s; this evaluation is skipped, as are later ones that fail the same way", fault)
            return nothing

    def judge(self) -> bool:
        """Note whether this is the best state so far, and return whether to save it.

        Training returns are judged when a checkpoint is due anyway; the best evaluation makes one due.
        """
        plan, iterations = self.settings.checkpoint, self.progress.iterations
        is_time = self._is_over() or is_due(plan.every, iterations - 1, iterations)
        if plan.best and (is_time or plan.best == EVAL):
            return self.progress.note_best(plan.best) or is_time
        return is_time

    def save(self) -> None:
        """Write a checkpoint."""
        from trpo_cli.seeding import global_generators

        self.progress.seconds = time.monotonic() - self._started
        generators = global_generators(self.settings.device)
        state = {**self.parts.state_dict(), "generators": generators, "progress": asdict(self.progress)}
        written = {"metrics_bytes": self.logger.sync(), "metrics_columns": self.logger.columns}
        steps = self.progress.env_steps
        self.run.save({**state, **written}, steps, self.settings.checkpoint.keep, self.progress.best.env_steps == steps)

    @property
    def intact(self) -> str:
        """For error messages: what is not lost."""
        return f"the checkpoint of step {self.run.saved:,} is intact"

    def _is_last(self, steps: int) -> bool:
        return steps >= self.settings.total_steps

    def _is_over(self) -> bool:
        return self._is_last(self.progress.env_steps) or find_early_end(self.settings, self.progress) is not None


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def run_composed(cfg: DictConfig) -> str | None:
    """Train with the configuration that Hydra composed; a job of a sweep returns the problem that ended it."""
    command = HydraConfig.get()
    with started_in(Path(command.runtime.cwd)):
        if command.mode is RunMode.MULTIRUN:
            return _run_job(cfg, command)
        _run_alone(cfg, command)
    return None


def _run_alone(cfg: DictConfig, command: HydraConf, is_command: bool = True) -> None:
    from trpo_cli.sweep.job import refuse_sweep_keys

    directory = Path(command.runtime.output_dir)
    with exit_on_user_error() if is_command else contextlib.nullcontext(), discard_empty(directory, is_command):
        node = convert_whole_numbers(resolve(cfg, command))
        refuse_sweep_keys(node.pop("sweep"), command.overrides.hydra)
        train(node, command.overrides.task, directory)


def _run_job(cfg: DictConfig, command: HydraConf) -> str | None:
    from trpo_cli.sweep.campaign import HERE
    from trpo_cli.sweep.running import run_job

    node, directory = convert_whole_numbers(resolve(cfg, command)), Path(command.runtime.output_dir)
    del node["sweep"]
    watched = command.launcher._target_.endswith(HERE)
    return run_job(lambda: train(node, command.overrides.task, directory, True, watched), directory.parent)


make_callable(sys.modules[__name__], _run_alone)  # trpo_cli.train([...])


@report_errors
def main() -> None:
    """Run the command `trpo-train`."""
    run_together(_run_command)


def _run_command() -> None:
    typed = read(sys.argv[1:])
    if not answer(typed):
        check_overrides(typed.overrides, typed.config_dir)
        from trpo_cli.sweep import register
        from trpo_cli.sweep.job import with_sweep_directory

        overrides = write_whole_numbers(allow_new_keys(typed.overrides), typed)
        sys.argv[1:] = [*typed.options, *with_sweep_directory(expand_resume(overrides, typed.multirun))]
        with search_everywhere(typed):
            register()
            run_composed()


if __name__ == "__main__":
    from trpo_cli.cli.start import train as command

    command()
