"""Whole episodes with a trained policy, in environments of their own, with the running statistics frozen."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trpo_cli.columns import EVALUATION, INFO
from trpo_cli.errors import ConfigError, EnvironmentFault
from trpo_cli.ranges import Count

if TYPE_CHECKING:  # torch takes a second to import, and neither `--help` nor TAB needs any of it
    import numpy as np
    from numpy.typing import NDArray

    from trpo_cli.envs.environments import Environments, Flags
    from trpo_cli.envs.make import Parallelism, Task
    from trpo_cli.envs.normalize import ObservationNormalizer
    from trpo_cli.models.policies import Policy
    from trpo_cli.samplers.acting import Step

log = logging.getLogger("trpo_cli")
METRICS = (EVALUATION, "eval/episode_return_std", "eval/episode_length_mean")
STREAM = "evaluation"  # name of the stream of random numbers
MAX_PARALLEL = 16  # environments at once


def columns(log_info: Sequence[str]) -> list[str]:
    """The metrics of an evaluation, by name."""
    return [*METRICS, *(f"eval{INFO}{name}" for name in log_info)]


@dataclass(frozen=True)
class Episodes:
    """How many whole episodes to play, and after how many steps to cut off one that does not end by itself."""

    episodes: Count
    max_episode_steps: Count


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted, unnormalised returns and lengths of E episodes."""

    returns: NDArray[np.float64]  # (E,)
    lengths: NDArray[np.int64]  # (E,)
    infos: dict[str, list[float]] = field(default_factory=dict)  # numbers of `env.log_info` (E,), NaN where missing

    def metrics(self) -> dict[str, float | None]:
        """Return the values of `columns`."""
        values = (self.returns.mean(), self.returns.std(), self.lengths.mean())
        infos = {f"eval{INFO}{name}": mean for name, mean in self.info_means().items()}
        return {**{name: float(value) for name, value in zip(METRICS, values, strict=True)}, **infos}

    def info_means(self) -> dict[str, float | None]:
        """Return the mean of each number of `env.log_info` over the episodes that have it, None if none has."""
        from trpo_cli.envs.infos import mean_where_present

        return {name: mean_where_present(values) for name, values in self.infos.items()}

    def interval(self) -> tuple[float, float] | None:
        """Return the 95 % interval of the mean return by Student's t, or None for too few episodes."""
        from trpo_cli.statistics import are_enough, bounds

        if not are_enough([self.returns]):
            return None
        low, high = bounds([self.returns])
        return float(low), float(high)


class Audience:
    """Watches episodes as they are played; this one looks away."""

    def begin(self, begun: Flags) -> None:
        """Environments (N,) show the first observation of an episode, but for the first ones of all."""

    def step(self, step: Step, counted: Flags, ended: Flags) -> None:
        """A step was taken, which counts in some environments (N,); none whose episode has `ended` was reset yet."""


def evaluate(
    task: Task,
    policy: Policy,
    normalizer: ObservationNormalizer,
    plan: Episodes,
    seed: int,
    sample: bool = False,
    parallelism: Parallelism | None = None,
    audience: Callable[[Environments], Audience] | None = None,
) -> Evaluation:
    """Play the planned episodes with the likeliest action in each state, or with sampled actions.

    Every environment plays a fixed share of the episodes, so that short ones do not count more often than long ones.
    `audience` makes whoever watches the environments, before their first step.
    """
    from trpo_cli.seeding import environment_seeds, isolate_globals

    num_envs = min(plan.episodes, MAX_PARALLEL)
    seeds = environment_seeds(seed, STREAM, num_envs)
    with isolate_globals(seed, STREAM), contextlib.closing(_make(task, seeds, parallelism)) as envs:
        return play(envs, policy, normalizer, plan, seed, sample, audience and audience(envs))


def _make(task: Task, seeds: list[int], parallelism: Parallelism | None) -> Environments:
    """Make an environment for each seed, or only the first if several cannot exist at a time."""
    from trpo_cli.envs.environments import Environments
    from trpo_cli.envs.make import FASTEST

    try:
        return Environments(task, len(seeds), seeds, parallelism or FASTEST)
    except (ConfigError, EnvironmentFault) as error:
        if len(seeds) == 1:
            raise
        envs = Environments(task, 1, seeds[:1], parallelism or FASTEST)
        log.warning("%s\n%d environments cannot exist at a time, so one plays all episodes", error, len(seeds))
        return envs


def play(
    envs: Environments,
    policy: Policy,
    normalizer: ObservationNormalizer,
    plan: Episodes,
    seed: int,
    sample: bool,
    audience: Audience | None = None,
) -> Evaluation:
    """Play in environments that were just reset."""
    import numpy as np

    from trpo_cli.models.policies import on_cpu
    from trpo_cli.samplers.acting import Acting
    from trpo_cli.seeding import torch_generator

    num_envs, audience = envs.num_envs, audience or Audience()
    generator = torch_generator(seed, f"{STREAM} actions")
    left = np.full(num_envs, plan.episodes // num_envs) + (np.arange(num_envs) < plan.episodes % num_envs)
    running_return, running_length = np.zeros(num_envs), np.zeros(num_envs, dtype=np.int64)
    returns: list[float] = []
    lengths: list[int] = []
    infos: dict[str, list[float]] = {name: [] for name in envs.task.log_info}
    acting, distribution = Acting(envs, normalizer, on_cpu(policy)), policy.distribution
    while left.any():
        step = acting.step(distribution.noise((num_envs,), generator).numpy() if sample else None)
        running_return += step.reward
        running_length += 1
        ended = step.terminated | step.truncated | (running_length >= plan.max_episode_steps)
        audience.step(step, left > 0, ended)
        counted = ended & (left > 0)
        returns.extend(running_return[counted])
        lengths.extend(running_length[counted])
        for name, values in envs.read_infos(counted).items():
            infos[name].extend(values.tolist())
        left[counted] -= 1
        running_return[ended], running_length[ended] = 0, 0
        if ended.any():
            acting.restart(ended)
            audience.begin(ended)
    return Evaluation(np.array(returns), np.array(lengths), infos)
