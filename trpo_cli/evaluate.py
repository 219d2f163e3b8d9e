"""trpo-eval: play episodes with a trained policy, on environments of their own, with the statistics frozen as saved."""

from __future__ import annotations

import argparse
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trpo_cli.cli import reported
from trpo_cli.command_line import Parser
from trpo_cli.layout import CHECKPOINTS, fitting, read_config
from trpo_cli.ranges import Count

if TYPE_CHECKING:  # torch takes a second to import, and neither `--help` nor TAB needs any of it
    import numpy as np
    from numpy.typing import NDArray

    from trpo_cli.envs.make import Parallelism, Task
    from trpo_cli.envs.normalize import ObservationNormalizer
    from trpo_cli.policies import Policy

log = logging.getLogger("trpo_cli")
METRICS = ("eval/episode_return_mean", "eval/episode_return_std", "eval/episode_length_mean")
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
    import numpy as np
    import torch

    from trpo_cli.envs.environments import Environments
    from trpo_cli.envs.make import FASTEST
    from trpo_cli.policies import on_cpu
    from trpo_cli.seeding import environment_seeds, torch_generator

    num_envs = min(plan.episodes, MAX_PARALLEL)
    generator = torch_generator(seed, "evaluation actions")
    left = np.full(num_envs, plan.episodes // num_envs) + (np.arange(num_envs) < plan.episodes % num_envs)
    running_return, running_length = np.zeros(num_envs), np.zeros(num_envs, dtype=np.int64)
    returns: list[float] = []
    lengths: list[int] = []
    actor, distribution = on_cpu(policy), policy.distribution
    seeds = environment_seeds(seed, "evaluation", num_envs)
    envs = Environments(task, num_envs, seeds, parallelism or FASTEST)
    with contextlib.closing(envs), torch.no_grad():
        while left.any():
            parameters = actor.infer(torch.from_numpy(normalizer(envs.observation)))
            if sample:
                action = distribution.sample(parameters, distribution.noise((num_envs,), generator))
            else:
                action = distribution.mode(parameters)
            _, reward, terminated, truncated = envs.step(action.numpy())
            running_return += reward
            running_length += 1
            ended = terminated | truncated | (running_length >= plan.max_episode_steps)
            counted = ended & (left > 0)
            returns.extend(running_return[counted])
            lengths.extend(running_length[counted])
            left[counted] -= 1
            running_return[ended], running_length[ended] = 0, 0
            if ended.any():
                envs.restart(ended)
    return Evaluation(np.array(returns), np.array(lengths))


def load_policy(directory: Path, plugins: Sequence[str]) -> tuple[Task, Policy, ObservationNormalizer, int]:
    """The task, policy and frozen observation statistics of a run's newest checkpoint, and its environment steps.

    Raises `RunDirectoryError` or `CheckpointError` if there is nothing whole to load.
    """
    from trpo_cli import checkpoint
    from trpo_cli.build import build
    from trpo_cli.envs.environments import Environments
    from trpo_cli.envs.make import Task
    from trpo_cli.envs.normalize import ObservationNormalizer
    from trpo_cli.plugins import import_plugins
    from trpo_cli.policies import Policy

    node = read_config(directory)
    import_plugins(plugins)
    task = build(node["env"], "env", Task, plugins)
    with contextlib.closing(Environments(task, 1, [0])) as probe:
        shape: dict[str, Any] = {"observation_size": probe.observation_size, "num_states": probe.num_states}
        policy = build(node["policy"], "policy", Policy, plugins, **shape, distribution=probe.distribution)
        size = probe.observation_size
    normalizer = ObservationNormalizer(size, task.normalize_observation, task.observation_clip)
    found = checkpoint.load_newest(directory / CHECKPOINTS)
    for error in found.damaged.values():
        log.warning("passed over a damaged checkpoint: %s", error)
    state = found.state
    with fitting(directory):
        policy.load_state_dict(state["policy"])
        normalizer.load_state_dict(state["sampler"]["normalizer"])
        return task, policy, normalizer, int(state["sampler"]["env_steps"])


@reported
def main() -> None:
    """The command `trpo-eval`."""
    parser = Parser(
        prog="trpo-eval", description="Play episodes with the newest checkpoint of a run, and print their returns."
    )
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="a directory that trpo-train wrote")
    parser.add_argument("--episodes", type=_at_least(1), default=10, help="to play (default: %(default)s)")
    parser.add_argument("--seed", type=_at_least(0), default=0, help="of the environments (default: %(default)s)")
    parser.add_argument("--sample", action="store_true", help="sample actions instead of taking the likeliest")
    parser.add_argument(
        "--max-steps",
        type=_at_least(1),
        default=10_000,
        help="cut off longer episodes (default: %(default)s)",
    )
    parser.add_argument(
        "--plugins",
        nargs="*",
        default=[],
        metavar="PACKAGE",
        help="packages the run may be built from",
    )
    arguments = parser.parse_args()

    from trpo_cli.threads import limit_threads

    limit_threads()
    task, policy, normalizer, env_steps = load_policy(arguments.run, arguments.plugins)
    plan = Episodes(arguments.episodes, arguments.max_steps)
    result = evaluate(task, policy, normalizer, plan, arguments.seed, arguments.sample)
    print(f"{task.id} after {env_steps:,} steps, {'sampled' if arguments.sample else 'likeliest'} actions:")
    print(
        f"return {result.returns.mean():.2f} ± {result.returns.std():.2f} (standard deviation), "
        f"length {result.lengths.mean():.1f}, {len(result.returns)} episodes"
    )


def _at_least(smallest: int) -> Any:
    """An argparse type: a whole number not below `smallest`."""

    def whole(text: str) -> int:
        value = int(text)
        if value < smallest:
            raise argparse.ArgumentTypeError(f"{text} is not at least {smallest}")
        return value

    return whole
