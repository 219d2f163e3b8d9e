"""Whole episodes with a trained policy, on environments of their own, with the statistics frozen as saved."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trpo_cli.errors import ConfigError, EnvironmentFault
from trpo_cli.ranges import Count

if TYPE_CHECKING:  # torch takes a second to import, and neither `--help` nor TAB needs any of it
    import numpy as np
    from numpy.typing import NDArray

    from trpo_cli.envs.environments import Environments
    from trpo_cli.envs.make import Parallelism, Task
    from trpo_cli.envs.normalize import ObservationNormalizer
    from trpo_cli.models.policies import Policy

log = logging.getLogger("trpo_cli")
METRICS = ("eval/episode_return_mean", "eval/episode_return_std", "eval/episode_length_mean")
STREAM = "evaluation"  # of random numbers
MAX_PARALLEL = 16  # environments at once


@dataclass(frozen=True)
class Episodes:
    """What to play: so many whole episodes, cut off after so many steps where the task knows no end."""

    episodes: Count
    max_episode_steps: Count


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted, unnormalised returns and lengths of E episodes."""

    returns: NDArray[np.float64]  # (E,)
    lengths: NDArray[np.int64]  # (E,)

    def metrics(self) -> dict[str, float | None]:
        """The `METRICS` of one row."""
        values = (self.returns.mean(), self.returns.std(), self.lengths.mean())
        return {name: float(value) for name, value in zip(METRICS, values, strict=True)}

    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean return, Student's t; None for too few episodes."""
        from trpo_cli.statistics import are_enough, bounds

        if not are_enough([self.returns]):
            return None
        low, high = bounds([self.returns])
        return float(low), float(high)


def evaluate(
    task: Task,
    policy: Policy,
    normalizer: ObservationNormalizer,
    plan: Episodes,
    seed: int,
    sample: bool = False,
    parallelism: Parallelism | None = None,
) -> Evaluation:
    """Play the planned episodes with the likeliest action of each state, or with sampled ones.

    Every environment plays its fixed share of the episodes, so short ones are not counted more often than long ones.
    """
    from trpo_cli.seeding import environment_seeds, isolate_globals

    num_envs = min(plan.episodes, MAX_PARALLEL)
    seeds = environment_seeds(seed, STREAM, num_envs)
    with isolate_globals(seed, STREAM), contextlib.closing(_made(task, seeds, parallelism)) as envs:
        return play(envs, policy, normalizer, plan, seed, sample)


def _made(task: Task, seeds: list[int], parallelism: Parallelism | None) -> Environments:
    """An environment for each of the seeds; one alone, with the first, where so many cannot be had at a time."""
    from trpo_cli.envs.environments import Environments
    from trpo_cli.envs.make import FASTEST

    try:
        return Environments(task, len(seeds), seeds, parallelism or FASTEST)
    except (ConfigError, EnvironmentFault) as error:
        if len(seeds) == 1:
            raise
        envs = Environments(task, 1, seeds[:1], parallelism or FASTEST)
        log.warning("%s\n%d of it cannot be had at a time, so that one plays all episodes", error, len(seeds))
        return envs


def play(
    envs: Environments,
    policy: Policy,
    normalizer: ObservationNormalizer,
    plan: Episodes,
    seed: int,
    sample: bool,
    seen: Callable[[bool], None] = lambda ended: None,
) -> Evaluation:
    """Play in environments that were just reset; after each step, `seen` is told whether the first one's episode ended.

    It is called before that environment is reset, and not after its last episode.
    """
    import numpy as np

    from trpo_cli.models.policies import on_cpu
    from trpo_cli.samplers.acting import Acting
    from trpo_cli.seeding import torch_generator

    num_envs = envs.num_envs
    generator = torch_generator(seed, f"{STREAM} actions")
    left = np.full(num_envs, plan.episodes // num_envs) + (np.arange(num_envs) < plan.episodes % num_envs)
    running_return, running_length = np.zeros(num_envs), np.zeros(num_envs, dtype=np.int64)
    returns: list[float] = []
    lengths: list[int] = []
    acting, distribution = Acting(envs, normalizer, on_cpu(policy)), policy.distribution
    while left.any():
        step = acting.step(distribution.noise((num_envs,), generator).numpy() if sample else None)
        running_return += step.reward
        running_length += 1
        ended = step.terminated | step.truncated | (running_length >= plan.max_episode_steps)
        if left[0]:
            seen(bool(ended[0]))
        counted = ended & (left > 0)
        returns.extend(running_return[counted])
        lengths.extend(running_length[counted])
        left[counted] -= 1
        running_return[ended], running_length[ended] = 0, 0
        if ended.any():
            acting.restart(ended)
    return Evaluation(np.array(returns), np.array(lengths))
