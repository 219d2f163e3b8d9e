"""trpo-train: compose the configuration, build the parts, then collect -> estimate -> update -> log -> save.

READ FIRST. The mathematics of an iteration is in `algos/policy_gradient.py`, that of a step in
`trust_region/update.py`. torch is imported inside the functions, so that `--help` and shell completion answer at once.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from trpo_cli.cli import CONF, discard_empty, opened, print_help, reported
from trpo_cli.evaluate import METRICS, Episodes, Evaluation, evaluate
from trpo_cli.ranges import Count, NonNegativeInt
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


@dataclass(frozen=True)
class Parts:
    """Everything a run is made of."""

    task: Task
    sampler: Sampler
    policy: Policy
    critic: Critic
    algorithm: Algorithm

    def evaluate(self, plan: Episodes, seed: int) -> Evaluation:
        """Play episodes with the likeliest actions, side by side as the sampler does."""
        parallelism = self.sampler.environments.parallelism
        return evaluate(self.task, self.policy, self.sampler.normalizer, plan, seed, parallelism=parallelism)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        names = ("sampler", "policy", "critic", "algorithm")
        return {name: getattr(self, name).state_dict() for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        for name in state:
            getattr(self, name).load_state_dict(state[name])


def build_parts(node: dict[str, Any], settings: Settings) -> Parts:
    """The parts that a resolved configuration describes. Raises `ConfigError` before any environment step."""
    import torch

    from trpo_cli.algos import Algorithm
    from trpo_cli.build import build
    from trpo_cli.critics import Critic
    from trpo_cli.envs.make import Task
    from trpo_cli.policies import Policy
    from trpo_cli.samplers import Sampler
    from trpo_cli.seeding import sequence, torch_generator
    from trpo_cli.threads import single_threaded

    def part(role: type[R], group: str, **context: Any) -> R:
        return build(node.get(group), group, role, settings.plugins, **context)

    single_threaded()
    seed, device = settings.seed, usable(settings.device)
    task = part(Task, "env")
    sampler = part(Sampler, "sampler", task=task, seed=seed, gamma=node["algo"].get("gamma"))
    envs = sampler.environments
    torch.manual_seed(int(sequence(seed, "initial parameters").generate_state(1)[0]))
    shape = {"observation_size": envs.observation_size, "num_states": envs.num_states}
    policy = part(Policy, "policy", **shape, distribution=envs.distribution).to(device)
    critic = part(Critic, "critic", **shape, policy=policy, generator=torch_generator(seed, "critic")).to(device)
    core = {"sampler": sampler, "policy": policy, "critic": critic}
    algorithm = part(Algorithm, "algo", **core, generator=torch_generator(seed, "algorithm"))
    return Parts(task, sampler, policy, critic, algorithm)


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


def train(cfg: DictConfig, choices: Mapping[str, str], directory: Path) -> None:
    """One run in `directory`, from its configuration to its summary; `choices` names the option of each group."""
    from trpo_cli.build import fill, import_plugins
    from trpo_cli.logger import Logger
    from trpo_cli.run import Run
    from trpo_cli.signals import StopRequest

    log.setLevel(logging.INFO)
    node: Any = OmegaConf.to_container(cfg, resolve=True)
    settings: Settings = fill(Settings, {key: value for key, value in node.items() if key not in PART_GROUPS})
    import_plugins(settings.plugins)
    parts = build_parts(node, settings)
    with (
        Run(directory, OmegaConf.to_yaml({"choices": choices, **node}), settings.checkpoint.keep) as run,
        Logger(directory, settings.total_steps) as logger,
        StopRequest() as stop,
        contextlib.closing(parts.sampler.environments),
    ):
        log.info("training on %s, writing to %s", parts.task.id, directory)
        if parts.sampler.random:
            log.info("%s environments, %s", parts.sampler.environments.num_envs, parts.sampler.environments.how)
        summary = loop(settings, parts, run, logger, stop)
        run.finish(summary)
    farewell(parts.task, summary, directory)


def loop(settings: Settings, parts: Parts, run: Run, logger: Logger, stop: StopRequest) -> dict[str, Any]:
    """Iterate until `total_steps`; returns what was reached. Raises `SystemExit` after a signal, all saved."""
    start, steps, iterations, total = time.monotonic(), 0, 0, settings.total_steps
    best, row = None, {}
    run.save(parts.state_dict(), steps)
    while steps < total:
        row = parts.algorithm.iterate(steps / total)
        before, steps, iterations = steps, int(row["env_steps"] or 0), iterations + 1
        last = steps >= total
        seconds = (row["time/sample_seconds"] or 0) + (row["time/update_seconds"] or 0)
        row |= {"time/steps_per_second": (steps - before) / seconds, **dict.fromkeys(METRICS)}
        if last or due(settings.checkpoint.every, iterations - 1, iterations):
            run.save(parts.state_dict(), steps)
        try:
            if settings.eval.every and (last or due(settings.eval.every, before, steps)):
                row |= parts.evaluate(settings.eval, settings.seed).metrics()
        finally:
            logger.write(row)
        best = max((r for r in (best, row["rollout/episode_return_mean"]) if r is not None), default=None)
        if stop.status is not None and not last:
            run.save(parts.state_dict(), steps)
            log.warning("stopped by a signal after %s steps; checkpoint saved", f"{steps:,}")
            raise SystemExit(stop.status)
    seconds = time.monotonic() - start
    return {
        "env_steps": steps,
        "iterations": iterations,
        "final_training_return": row["rollout/episode_return_mean"],
        "best_training_return": best,
        "final_evaluation_return": row["eval/episode_return_mean"],
        "wall_seconds": seconds,
        "steps_per_second": steps / seconds,
    }


def farewell(task: Task, summary: dict[str, Any], directory: Path) -> None:
    """Say what was reached, where it lies, and how to look at it."""
    place = relative(directory)
    reached = [
        f"{name} {summary[key]:.1f}"
        for name, key in (
            ("training return", "final_training_return"),
            ("best", "best_training_return"),
            ("evaluation return", "final_evaluation_return"),
        )
        if summary[key] is not None
    ]
    print(f"{task.id}: {', '.join(reached) or 'no episode ended'} after {summary['env_steps']:,} steps")
    print(f"{summary['wall_seconds']:.0f} s, {summary['steps_per_second']:,.0f} steps a second; the run is in {place}")
    print(f"look at it:  tensorboard --logdir {place}")
    print(f"play it:     trpo-eval {place}")


def relative(path: Path) -> Path:
    """`path` from the working directory where it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def _job(cfg: DictConfig) -> None:
    runtime = HydraConfig.get().runtime
    directory = Path(runtime.output_dir)
    with discard_empty(directory):
        train(cfg, {group: runtime.choices[group] for group in PART_GROUPS}, directory)


@reported
def main() -> None:
    """The command `trpo-train`."""
    if not print_help():
        sys.argv[1:] = opened(sys.argv[1:])
        _job()
