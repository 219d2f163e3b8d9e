"""Loads a trained policy from a run directory."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trpo_cli.errors import ConfigError, RunDirectoryError
from trpo_cli.run.layout import CHECKPOINTS, CONFIG, LOG, NEWEST, read_config, report_mismatch
from trpo_cli.run.state import failure
from trpo_cli.shell import keep_working_directory, short_path

if TYPE_CHECKING:  # torch takes a second to import, and `--help` does not need it
    import gymnasium

    from trpo_cli.envs.environments import Environments
    from trpo_cli.envs.make import Task
    from trpo_cli.envs.normalize import ObservationNormalizer
    from trpo_cli.models.policies import Policy
    from trpo_cli.play.episodes import Audience, Episodes, Evaluation

log = logging.getLogger("trpo_cli")
LONGEST = 10_000  # steps of an episode, of runs that do not say it


class Trained(NamedTuple):
    """The policy of a checkpoint, its task, and the fixed observation statistics."""

    task: Task
    policy: Policy
    normalizer: ObservationNormalizer
    env_steps: int
    spaces: tuple[gymnasium.Space[Any], gymnasium.Space[Any]]  # of the environment's own observations and actions
    longest: int = LONGEST  # steps after which an evaluation cuts off an episode, unless it is told otherwise

    def evaluate(
        self, plan: Episodes, seed: int, sample: bool, audience: Callable[[Environments], Audience] | None = None
    ) -> Evaluation:
        """Play the planned episodes in new environments. Raises as `episodes.evaluate` does."""
        from trpo_cli.play.episodes import evaluate

        return evaluate(self.task, self.policy, self.normalizer, plan, seed, sample, audience=audience)


def run_directories(folders: Sequence[Path]) -> Iterator[Path]:
    """Yield each folder that is a run, and the runs below each that is not, without repetition.

    A folder that is neither is yielded too, for `load` to refuse, as is a failed run that has left only a log.
    """
    seen = set()
    for folder in folders:
        for directory in ([] if (folder / CONFIG).exists() else _runs_below(folder)) or [folder]:
            if directory.resolve() not in seen:
                seen.add(directory.resolve())
                yield directory


def _runs_below(folder: Path) -> list[Path]:
    failed = {path.parent for path in folder.rglob(LOG) if failure(path.parent)}
    return sorted(failed | {path.parent for path in folder.rglob(CHECKPOINTS)})


def load(
    directory: Path, plugins: Sequence[str], checkpoint: int | str = NEWEST, changes: Sequence[str] = ()
) -> Trained:
    """Load the `"newest"` undamaged checkpoint, the `"best"`, or the one after so many environment steps.

    `changes`, such as `env.max_episode_steps=100`, replace settings of the environment in the configuration. Raises
    `RunDirectoryError` or `CheckpointError` if there is none, and `ConfigError` if the run needs code that `plugins`
    does not allow, or a change does not fit.
    """
    from trpo_cli.config.build import build
    from trpo_cli.config.plugins import import_plugins
    from trpo_cli.envs.environments import Environments
    from trpo_cli.envs.make import Task
    from trpo_cli.envs.normalize import ObservationNormalizer
    from trpo_cli.models.policies import Policy
    from trpo_cli.run.checkpoint import load_chosen

    if not (directory / CONFIG).exists() and (reason := failure(directory)):
        raise RunDirectoryError(f"{directory} failed before its first step: {reason}")
    node = read_config(directory)
    if changes:
        from trpo_cli.config.changes import change_environment

        node = change_environment(node, changes)
    import_plugins(plugins)
    task = build(node["env"], "env", Task, plugins)
    with keep_working_directory(), contextlib.closing(Environments(task, 1, [0])) as probe:
        spec, distribution, spaces = probe.spec, probe.distribution, probe.spaces
        policy = build(node["policy"], "policy", Policy, plugins, observation=spec, distribution=distribution)
    normalizer = ObservationNormalizer(spec, task.normalize_observation, task.observation_clip)
    found = load_chosen(directory / CHECKPOINTS, checkpoint)
    for error in found.damaged.values():
        log.warning("skipped a damaged checkpoint: %s", error)
    state = found.state
    with report_mismatch(directory):
        refuse_infinite("policy", state["policy"])
        if changes and not has_shapes(policy, state["policy"]):
            raise ConfigError(
                f"--set: the policy of {short_path(directory)} was trained with other observations or actions; with "
                f"{', '.join(changes)}, observations have shape {spec.shape}, and actions are {spaces[1]}"
            )
        policy.load_state_dict(state["policy"])
        normalizer.load_state_dict(with_own_scales(state)["normalizer"])
        longest = node.get("eval", {}).get("max_episode_steps", LONGEST)
        return Trained(task, policy, normalizer, int(state["sampler"]["env_steps"]), spaces, longest)


def has_shapes(policy: Policy, state: Mapping[str, Any]) -> bool:
    """Whether the parameters of a policy have the shapes of those in the state of another."""
    own = policy.state_dict()
    return own.keys() == state.keys() and all(own[key].shape == state[key].shape for key in own)


def refuse_infinite(name: str, state: Mapping[str, Any]) -> None:
    """Raise `ValueError` if a parameter of the part called `name` is not finite; the environment would be blamed."""
    for key, value in state.items():
        if hasattr(value, "isfinite") and not value.isfinite().all():
            raise ValueError(f"{name}.{key} is not finite")


def with_own_scales(state: dict[str, Any]) -> dict[str, Any]:
    """The state of a checkpoint, in which earlier versions kept the scales of observations and rewards in `sampler`."""
    inner = state["sampler"]
    return {**{name: inner[name] for name in ("normalizer", "reward_scaler") if name in inner}, **state}
