"""trpo-train: compose the configuration, build the parts, then collect -> estimate -> update -> log -> save.

READ FIRST. The mathematics of an iteration is in `algos/policy_gradient.py`, that of a step in
`trust_region/update.py`. torch is imported inside the functions, so that `--help` and shell completion answer at once.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from trpo_cli.cli import CONF, discard_empty, opened, print_help, reported
from trpo_cli.errors import EnvironmentFault
from trpo_cli.evaluate import METRICS, Episodes, Evaluation, evaluate
from trpo_cli.layout import relative
from trpo_cli.progress import Progress
from trpo_cli.ranges import Count, NonNegativeInt
from trpo_cli.resume import Node, Plan, directed, planned
from trpo_cli.schedules import due

if TYPE_CHECKING:
    import torch

    from trpo_cli.algos import Algorithm
    from trpo_cli.critics import Critic
    from trpo_cli.envs.make import Task
    from trpo_cli.logger import Logger
    from trpo_cli.policies import Policy
    from trpo_cli.run import Run
    from trpo_cli.samplers import Sampler
    from trpo_cli.signals import StopRequest

log = logging.getLogger("trpo_cli")
R = TypeVar("R")
PART_GROUPS = ("algo", "sampler", "policy", "critic", "env")
LEARNING = ("sampler", "policy", "critic", "algorithm")  # the parts that change
NOT_SETTINGS = (*PART_GROUPS, "choices", "resume")


@dataclass(frozen=True)
class EvaluationSettings(Episodes):
    """Of the evaluations during training."""

    every: NonNegativeInt  # environment steps; 0 for none


@dataclass(frozen=True)
class CheckpointSettings:
    """Of the files under `checkpoints/`."""

    every: Count  # iterations
    keep: Count


@dataclass(frozen=True)
class Settings:
    """The root of the configuration, but for the parts."""

    seed: NonNegativeInt
    total_steps: Count
    device: str  # where updates run: sampling stays on the CPU
    plugins: list[str]
    eval: EvaluationSettings
    checkpoint: CheckpointSettings
    fault_patience: NonNegativeInt  # samples in a row that the environments may spoil


@dataclass(frozen=True)
class Parts:
    """Everything a run is made of."""

    task: Task
    sampler: Sampler
    policy: Policy
    critic: Critic
    algorithm: Algorithm
    obstacle: str | None  # why a resume has to reset the environments

    def evaluate(self, plan: Episodes, seed: int) -> Evaluation:
        """Play episodes with the likeliest actions, side by side as the sampler does."""
        parallelism = self.sampler.environments.parallelism
        return evaluate(self.task, self.policy, self.sampler.normalizer, plan, seed, parallelism=parallelism)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        environments = None if self.obstacle else self.sampler.environments.state_dict()
        return {name: getattr(self, name).state_dict() for name in LEARNING} | {"environments": environments}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        for name in LEARNING:
            getattr(self, name).load_state_dict(state[name])
        if state["environments"] is not None:
            self.sampler.environments.load_state_dict(state["environments"])


def build_parts(node: dict[str, Any], settings: Settings) -> Parts:
    """The parts that a resolved configuration describes. Raises `ConfigError` before any environment step."""
    from trpo_cli.algos import Algorithm
    from trpo_cli.build import build
    from trpo_cli.critics import Critic
    from trpo_cli.envs.make import Task
    from trpo_cli.policies import Policy
    from trpo_cli.samplers import Sampler
    from trpo_cli.seeding import seed_globals, torch_generator
    from trpo_cli.threads import single_threaded

    def part(role: type[R], group: str, **context: Any) -> R:
        return build(node.get(group), group, role, settings.plugins, **context)

    single_threaded()
    seed, device = settings.seed, usable(settings.device)
    task = part(Task, "env")
    sampler = part(Sampler, "sampler", task=task, seed=seed, gamma=node["algo"].get("gamma"))
    envs = sampler.environments
    seed_globals(seed)
    shape = {"observation_size": envs.observation_size, "num_states": envs.num_states}
    policy = part(Policy, "policy", **shape, distribution=envs.distribution).to(device)
    critic = part(Critic, "critic", **shape, policy=policy, generator=torch_generator(seed, "critic")).to(device)
    core = {"sampler": sampler, "policy": policy, "critic": critic}
    algorithm = part(Algorithm, "algo", **core, generator=torch_generator(seed, "algorithm"))
    return Parts(task, sampler, policy, critic, algorithm, envs.resume_obstacle())


def usable(name: str) -> torch.device:
    """The device of that name. Raises `ConfigError` if torch knows none, or has no use of it here."""
    import torch

    from trpo_cli.errors import ConfigError

    try:
        device = torch.device(name)
        torch.ones(1, dtype=torch.float64, device=device).item()
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device: got '{name}'; cpu, cuda and cuda:1 are such names. {reason}") from error
    return device


def train(given: Node, overrides: Sequence[str], directory: Path) -> None:
    """Begin a run in `directory`, or go on with the one that is there, to its summary.

    `given` is the resolved configuration that the `overrides` compose to.
    """
    from trpo_cli.build import fill, import_plugins
    from trpo_cli.logger import Logger
    from trpo_cli.run import Run
    from trpo_cli.signals import Stopped, StopRequest

    log.setLevel(logging.INFO)
    with Run(directory) as run:
        plan = planned(directory, given, overrides)
        state = run.load() if plan.continues else None
        root = {key: value for key, value in plan.config.items() if key not in NOT_SETTINGS}
        settings: Settings = fill(Settings, {**root, "plugins": given["plugins"]})
        progress = fill(Progress, state.get("progress", {}), "progress.") if state else Progress()
        if run.finished and progress.env_steps >= settings.total_steps:
            print(f"{relative(directory)} is finished; a total_steps of more than {progress.env_steps:,} extends it")
            return
        import_plugins(settings.plugins)
        parts = build_parts(plan.config, settings)
        written = 0
        with contextlib.closing(parts.sampler.environments):
            if state:
                written = restore(parts, settings.seed, progress, state)
            run.begin(plan.config)
            with Logger(directory, settings.total_steps, progress.env_steps, written) as logger, StopRequest() as stop:
                announce(parts, progress, plan, run)
                try:
                    loop(settings, parts, run, logger, stop, progress)
                except Stopped as stopped:
                    log.warning("stopped by %s; the last checkpoint is of step %s", stopped.by.name, f"{run.saved:,}")
                    log.warning("trpo-train resume=%s goes on from there", relative(directory))
                    raise
        run.finish(progress.summary())
    farewell(parts.task, progress, directory)


def restore(parts: Parts, seed: int, progress: Progress, state: dict[str, Any]) -> int:
    """Put everything into the `state` of a checkpoint; returns how many bytes `metrics.csv` had.

    Where environments cannot be restored they are new ones. Raises `CheckpointError` if it does not fit.
    """
    from trpo_cli.errors import CheckpointError
    from trpo_cli.seeding import environment_seeds, restore_global_generators

    try:
        parts.load_state_dict(state)
        if state["environments"] is None:
            progress.inexact_resumes += 1
            stream = f"environments of resume {progress.inexact_resumes}"
            parts.sampler.recover(environment_seeds(seed, stream, parts.sampler.environments.num_envs))
        restore_global_generators(state["generators"])
        return int(state["metrics_bytes"])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"the checkpoint does not fit config.yaml: {error!r}") from error


def announce(parts: Parts, progress: Progress, plan: Plan, run: Run) -> None:
    """Say what begins, or how it goes on."""
    log.info("training on %s, writing to %s", parts.task.id, run.directory)
    if parts.sampler.random:
        log.info("%s environments, %s", parts.sampler.environments.num_envs, parts.sampler.environments.how)
    if plan.continues:
        log.info("going on after %s steps", f"{progress.env_steps:,}")
    for warning in run.warnings:
        log.warning("%s", warning)
    for change in plan.changes:
        log.warning("changed: %s", change)
    for key in plan.rescheduled:
        log.warning("%s is linear: it falls to 0 at the new total_steps, from another value than it had reached", key)
    if parts.obstacle:
        log.warning("a resume is not exact, and resets the environments: %s", parts.obstacle)


def loop(settings: Settings, parts: Parts, run: Run, logger: Logger, stop: StopRequest, progress: Progress) -> None:
    """Iterate until `total_steps`. Raises `Stopped` after a signal, all saved; `EnvironmentFault` after too many."""
    from trpo_cli.seeding import environment_seeds, global_generators
    from trpo_cli.signals import Stopped

    total, started, faults_in_a_row = settings.total_steps, time.monotonic() - progress.seconds, 0

    def save() -> None:
        progress.seconds = time.monotonic() - started
        state = {**parts.state_dict(), "generators": global_generators(), "progress": asdict(progress)}
        run.save({**state, "metrics_bytes": logger.sync()}, progress.env_steps, settings.checkpoint.keep)

    if not progress.iterations:
        save()
    while progress.env_steps < total:
        try:
            if faults_in_a_row:
                stream = f"environments after fault {progress.faults}"
                parts.sampler.recover(environment_seeds(settings.seed, stream, parts.sampler.environments.num_envs))
            if stop.signal is not None:
                save()
                raise Stopped(stop.signal)
            row = parts.algorithm.iterate(progress.env_steps / total)
        except EnvironmentFault as fault:
            progress.faults += 1
            faults_in_a_row += 1
            if faults_in_a_row > settings.fault_patience:
                raise EnvironmentFault(
                    f"{fault}\nthat is one more in a row than fault_patience={settings.fault_patience}; "
                    f"the checkpoint of step {run.saved:,} is whole"
                ) from fault
            log.warning("%s; its sample is dropped, the environments are made anew", fault)
            continue
        faults_in_a_row, before, steps = 0, progress.env_steps, int(row["env_steps"] or 0)
        last = steps >= total
        seconds = (row["time/sample_seconds"] or 0) + (row["time/update_seconds"] or 0)
        row |= {"time/steps_per_second": (steps - before) / seconds, **dict.fromkeys(METRICS)}
        if settings.eval.every and (last or due(settings.eval.every, before, steps)):
            try:
                row |= parts.evaluate(settings.eval, settings.seed).metrics()
            except EnvironmentFault as fault:
                progress.faults += 1
                log.warning("%s; this evaluation is left out", fault)
        row |= {"rollout/faults": float(progress.faults), "rollout/inexact_resumes": float(progress.inexact_resumes)}
        logger.write(row)
        progress.note(row)
        if last or due(settings.checkpoint.every, progress.iterations - 1, progress.iterations):
            save()


def farewell(task: Task, progress: Progress, directory: Path) -> None:
    """Say what was reached, where it lies, and how to look at it."""
    place, seconds = relative(directory), progress.seconds
    reached = [
        f"{name} {value:.1f}"
        for name, value in (
            ("training return", progress.final_training_return),
            ("best", progress.best_training_return),
            ("evaluation return", progress.final_evaluation_return),
        )
        if value is not None
    ]
    print(f"{task.id}: {', '.join(reached) or 'no episode ended'} after {progress.env_steps:,} steps")
    print(f"{seconds:.0f} s, {progress.env_steps / seconds:,.0f} steps a second; the run is in {place}")
    print(f"look at it:  tensorboard --logdir {place}")
    print(f"play it:     trpo-eval {place}")


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def _job(cfg: DictConfig) -> None:
    command = HydraConfig.get()
    choices = {
        group: option
        for group, option in command.runtime.choices.items()
        if not group.startswith("hydra/") and "@" not in group
    }
    node: Any = OmegaConf.to_container(cfg, resolve=True)
    directory = Path(command.runtime.output_dir)
    with discard_empty(directory):
        train({"choices": choices, **node}, command.overrides.task, directory)


@reported
def main() -> None:
    """The command `trpo-train`."""
    if not print_help():
        sys.argv[1:] = directed(opened(sys.argv[1:]))
        _job()
