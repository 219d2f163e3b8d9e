"""trpo-eval: play episodes with a trained policy, on environments of their own, with the statistics frozen as saved."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trpo_cli.cli import reported

if TYPE_CHECKING:  # torch takes a second to import, and `--help` needs none of it
    from trpo_cli.envs.make import Task
    from trpo_cli.envs.normalize import ObservationNormalizer
    from trpo_cli.policies import Policy

METRICS = ("eval/episode_return_mean", "eval/episode_return_std", "eval/episode_length_mean")
MAX_PARALLEL = 16  # environments at once


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted, unnormalised returns and lengths of E whole episodes."""

    returns: NDArray[np.float64]  # (E,)
    lengths: NDArray[np.int64]  # (E,)

    def metrics(self) -> dict[str, float | None]:
        """The `METRICS` of one row."""
        values = (self.returns.mean(), self.returns.std(), self.lengths.mean())
        return {name: float(value) for name, value in zip(METRICS, values, strict=True)}


def evaluate(
    task: Task, policy: Policy, normalizer: ObservationNormalizer, episodes: int, seed: int, sample: bool = False
) -> Evaluation:
    """Play `episodes` whole episodes with the likeliest action of each state, or with sampled ones.

    Every environment plays its fixed share of the episodes, so short ones are not counted more often than long ones.
    """
    import torch

    from trpo_cli.envs.environments import Environments
    from trpo_cli.seeding import environment_seeds, torch_generator

    num_envs = min(episodes, MAX_PARALLEL)
    envs = Environments(task, num_envs, environment_seeds(seed, "evaluation", num_envs))
    generator = torch_generator(seed, "evaluation actions")
    left = np.full(num_envs, episodes // num_envs) + (np.arange(num_envs) < episodes % num_envs)
    running_return, running_length = np.zeros(num_envs), np.zeros(num_envs, dtype=np.int64)
    returns: list[float] = []
    lengths: list[int] = []
    with torch.no_grad():
        while left.any():
            parameters = policy(torch.from_numpy(normalizer(envs.observation)))
            distribution = policy.distribution
            action = distribution.sample(parameters, generator) if sample else distribution.mode(parameters)
            _, reward, terminated, truncated = envs.step(action.numpy())
            running_return += reward
            running_length += 1
            ended = terminated | truncated
            counted = ended & (left > 0)
            returns.extend(running_return[counted])
            lengths.extend(running_length[counted])
            left[counted] -= 1
            running_return[ended], running_length[ended] = 0, 0
            if ended.any():
                envs.restart(ended)
    envs.close()
    return Evaluation(np.array(returns), np.array(lengths))


@reported
def main() -> None:
    """The command `trpo-eval`."""
    parser = argparse.ArgumentParser(
        prog="trpo-eval", description="Play episodes with the newest checkpoint of a run, and print their returns."
    )
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="a directory that trpo-train wrote")
    parser.add_argument("--episodes", type=_count, default=10, help="whole episodes to play (default: %(default)s)")
    parser.add_argument("--seed", type=_index, default=0, help="of the environments (default: %(default)s)")
    parser.add_argument("--sample", action="store_true", help="sample actions instead of taking the likeliest")
    parser.add_argument(
        "--plugins",
        nargs="*",
        default=[],
        metavar="PACKAGE",
        help="packages that the run's configuration may build from",
    )
    arguments = parser.parse_args()

    from trpo_cli.train import load_policy

    task, policy, normalizer, env_steps = load_policy(arguments.run, arguments.plugins)
    result = evaluate(task, policy, normalizer, arguments.episodes, arguments.seed, arguments.sample)
    print(f"{task.id} after {env_steps:,} steps, {'sampled' if arguments.sample else 'likeliest'} actions:")
    print(
        f"return {result.returns.mean():.2f} ± {result.returns.std():.2f} (standard deviation), "
        f"length {result.lengths.mean():.1f}, {len(result.returns)} episodes"
    )


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def _index(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is not at least 0")
    return value
