"""Whole episodes with a trained policy, in environments of their own, with the running statistics frozen."""

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
STREAM = "evaluation"  # name of the stream of random numbers
MAX_PARALLEL = 16  # environments at once


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

    def metrics(self) -> dict[str, float | None]:
        """Return the values of `METRICS`."""
        values = (self.returns.mean(), self.returns.std(), self.lengths.mean())
        return {name: float(value) for name, value in zip(METRICS, values, strict=True)}

    def interval(self) -> tuple[float, float] | None:
        """Return the 95 % interval of the mean return by Student's t, or None for too few episodes."""
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
    """Play the planned episodes with the likeliest action in each state, or with sampled actions.

    Every environment plays a fixed share of the episodes, so that short ones do not count more often than long ones.
    """
    from trpo_cli.seeding import environment_seeds, isolate_globals

    num_envs = min(plan.episodes, MAX_PARALLEL)
    seeds = environment_seeds(seed, STREAM, num_envs)
    with isolate_globals(seed, STREAM), contextlib.closing(_make(task, seeds, parallelism)) as envs:
        return play(envs, policy, normalizer, plan, seed, sample)


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
    seen: Callable[[bool], None] = lambda ended: None,
) -> Evaluation:
    """Play in environments that were just reset.

    `seen(ended)` is called after each step of the first environment, before it is reset, until its last episode ends.
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
