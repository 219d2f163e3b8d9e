"""What a run begins with in place of random numbers: parameters and statistics from a checkpoint of another run.

Optimisers, generators, counters and episodes begin anew. The configuration of the other run is read as data: none of
its code is needed, and none is run.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trpo_cli.config.settings import LATER, InitSettings, format_setting
from trpo_cli.errors import CheckpointError, ConfigError, RunDirectoryError, counted
from trpo_cli.play.trained import refuse_infinite, with_own_scales
from trpo_cli.run.layout import CHECKPOINTS, read_config, report_mismatch
from trpo_cli.shell import start_directory

if TYPE_CHECKING:  # torch takes a second to import, and `--help` does not need it
    from gymnasium import Space
    from torch import Tensor

    from trpo_cli.envs.normalize import ObservationNormalizer, RewardScaler
    from trpo_cli.models.critics import Critic
    from trpo_cli.models.policies import Policy

log = logging.getLogger("trpo_cli")
ORIGIN = "init_from"  # where a checkpoint and a summary say what the run began with
OTHERWISE = ", so its actions would mean something else"
PARTS = ("policy", "critic", "statistics")


@dataclass(frozen=True)
class Source:
    """The checkpoint of another run, and which of its parts are wanted."""

    directory: str  # as it was typed
    sha256: str  # of the file of the checkpoint
    config: Mapping[str, Any]
    state: Mapping[str, Any]
    wanted: InitSettings

    @classmethod
    def read(cls, directory: str, wanted: InitSettings) -> Source:
        """Read it. Raises `ConfigError`, `RunDirectoryError` or `CheckpointError`, naming the key."""
        from trpo_cli.run import checkpoint

        if not directory:
            raise ConfigError("init_from: is empty; it takes a run directory")
        place = start_directory() / directory
        try:
            config = read_config(place)
            found = checkpoint.load_chosen(place / CHECKPOINTS, wanted.checkpoint)
            sha256 = hashlib.sha256(found.path.read_bytes()).hexdigest()
        except OSError as error:  # a run that goes on deletes its older checkpoints
            raise CheckpointError(
                f"init_from: {directory}: {error.strerror}; its checkpoints change: try again"
            ) from error
        except (RunDirectoryError, CheckpointError) as error:
            raise type(error)(f"init_from: {str(error).replace(f'{start_directory()}/', '')}") from error
        for damage in found.damaged.values():
            log.warning("init_from: skipped a damaged checkpoint: %s", damage)
        with report_mismatch(place, ORIGIN):
            return cls(directory, sha256, config, with_own_scales(found.state), wanted)

    def lend(
        self,
        node: Mapping[str, Any],
        action_space: Space[Any],
        policy: Policy,
        critic: Critic,
        normalizer: ObservationNormalizer,
        reward_scaler: RewardScaler,
    ) -> dict[str, Any]:
        """Copy what is wanted into the parts that `node` describes, and return a record of it for the checkpoint.

        `action_space` is that of this run's environment. Raises `ConfigError` if something does not fit that is
        required.
        """
        with report_mismatch(start_directory() / self.directory, ORIGIN):
            differs = self._compare_views(node["env"]), self._compare_scales(node["env"], action_space)
            # Of another task, only the user knows whether these make its observations and actions alike.
            view, scale = differs if self._is_of_task(node["env"]) else ("", "")
            size = self._compare_sizes(normalizer, differs[0])
            unlike = self._compare_kinds(policy) or (scale and f"{scale}{OTHERWISE}")
            moments = self.state["normalizer"], self._reward_scale(reward_scaler)
            found = {
                "policy": self._lend_module("policy", policy, node, size or unlike),
                "critic": self._lend_module("critic", critic, node, size or view),
                "statistics of observations": self._lend_statistics("observation", normalizer, moments[0], view),
                "statistics of rewards": self._lend_statistics("reward", reward_scaler, moments[1]),
            }
            taken = [name for name, problem in found.items() if problem == ""]
            for name in PARTS:
                if getattr(self.wanted, name) is True and not any(one.startswith(name) for one in taken):
                    raise self._refuse(name, "this run has none")
            if not taken:
                raise ConfigError(f"init_from: nothing of {self.directory} is taken")
            return {
                "run": self.directory,
                "task": str(self.config["env"]["id"]),
                "algo": str(self.config["choices"]["algo"]),
                "env_steps": int(self.state["sampler"]["env_steps"]),
                "sha256": self.sha256,
                "git_revision": self.state.get("git_revision"),
                "taken": taken,
                "not_taken": {name: problem for name, problem in found.items() if problem},
                "differs": [problem for problem in differs if problem and "policy" in taken],
            }

    def _is_of_task(self, env: Mapping[str, Any]) -> bool:
        return all(_get(self.config["env"], key) == _get(env, key) for key in ("id", "kwargs", "wrappers"))

    def _compare_views(self, env: Mapping[str, Any]) -> str:
        """How what a policy sees of an observation differs; empty if it does not."""
        keys = ("observe", "hide", "grey", "resize", "stack")
        pairs = [(key, _get(self.config["env"], key), _get(env, key)) for key in keys]
        differing = [(key, format_setting(there), format_setting(here)) for key, there, here in pairs if there != here]
        return ", ".join(f"env.{key}: {there} there, {here} here" for key, there, here in differing)

    def _compare_scales(self, env: Mapping[str, Any], space: Space[Any]) -> str:
        """How the meaning of a policy's actions in this space differs; empty if it does not."""
        from trpo_cli.envs.spaces import is_rescaled

        there, here = (one.get("rescale_action", False) for one in (self.config["env"], env))
        differs = is_rescaled(space, there) != is_rescaled(space, here)
        return f"env.rescale_action: {format_setting(there)} there, {format_setting(here)} here" if differs else ""

    def _compare_kinds(self, policy: Policy) -> str:
        """How the distributions of actions differ; empty if they do not, or an earlier version did not save them."""
        there, here = self.state.get("actions"), repr(policy.distribution)
        if there in (None, here):
            return ""
        return f"an action is {_describe_actions(there)} there, {_describe_actions(here)} here"

    def _compare_sizes(self, normalizer: ObservationNormalizer, view: str) -> str:
        """How the numbers of observations differ; empty if they do not."""
        import numpy as np

        given = self.state["normalizer"]
        shape = given["shape"] if "shape" in given else np.shape(given["mean"])
        there, here = math.prod(shape), math.prod(normalizer.moments.shape)
        because = f" ({view})" if view else ""
        return f"an observation has {counted(there, 'number')} there, {here} here{because}" if there != here else ""

    def _lend_module(self, name: str, module: Policy | Critic, node: Mapping[str, Any], obstacle: str) -> str | None:
        """Copy parameters and buffers in place, for whoever holds them already. Returns what `_settle` returns."""
        from trpo_cli.models.adam import Adam

        own, given = module.state_dict(), self.state[name]
        fresh = tuple(f"{path}." for path, inner in module.named_modules() if isinstance(inner, Adam))
        mine, theirs = (_select_numbers(state, fresh) for state in (own, given))
        unlike = self._compare_nodes(name, module.architecture, node) or obstacle or _compare_shapes(mine, theirs)
        settled = self._settle(name, unlike, exists=bool(mine))
        if settled == "":
            refuse_infinite(name, theirs)
            module.load_state_dict({**own, **theirs})
        return settled

    def _lend_statistics(
        self, kind: str, mine: ObservationNormalizer | RewardScaler, given: Any, obstacle: str = ""
    ) -> str | None:
        """Copy running moments. Returns what `_settle` returns."""
        here, there = mine.enabled, self.config["env"].get(f"normalize_{kind}") is True
        unlike = f"env.normalize_{kind}: {format_setting(there)} there, {format_setting(here)} here"
        problem = obstacle if here == there else unlike
        if problem and kind == "observation" and self.wanted.policy and self.wanted.statistics:
            raise ConfigError(
                f"init_from: {problem}, so the policy would see other numbers than it was trained with; "
                "init.statistics=false takes it all the same"
            )
        if not problem and _outline(mine.state_dict()) != _outline(given):
            problem = f"{kind}s have another shape there"
        settled = self._settle("statistics", problem, exists=here or there)
        if settled == "":
            mine.load_state_dict(given)
        return settled

    def _reward_scale(self, mine: RewardScaler) -> dict[str, Any]:
        """The state of a scale with the moments of the source, and with the unfinished episodes of this run."""
        given = self.state.get("reward_scaler")  # earlier versions had one only where a sampler used it
        return mine.state_dict() if given is None else {**mine.state_dict(), "moments": given["moments"]}

    def _settle(self, name: str, problem: str, exists: bool) -> str | None:
        """Why a wanted part is not taken; empty if it is, and None if it is not wanted or does not exist.

        Raises `ConfigError` if it is required.
        """
        wanted = getattr(self.wanted, name)
        if wanted is True and problem and exists:
            raise self._refuse(name, problem)
        return problem if wanted and exists else None

    def _refuse(self, name: str, reason: str) -> ConfigError:
        return ConfigError(
            f"init.{name}: that of {self.directory} does not fit: {reason}\ninit.{name}=false begins with a new one"
        )

    def _compare_nodes(self, name: str, architecture: Sequence[str] | None, node: Mapping[str, Any]) -> str:
        """The first key in which two parts differ as functions of their parameters; empty if there is none."""
        mine, theirs = node[name], self.config.get(name) or {}
        if mine["_target_"] != theirs.get("_target_"):
            there, here = (config.get("choices", {}).get(name) for config in (self.config, node))
            differs = there != here
            return f"{name}={there} there, {name}={here} here" if differs else f"{name}._target_ is another there"
        for key in {*mine, *theirs} if architecture is None else architecture:
            if mine.get(key) != theirs.get(key):
                return f"{name}.{key}: {format_setting(theirs.get(key))} there, {format_setting(mine.get(key))} here"
        return ""


def _select_numbers(state: Mapping[str, Any], fresh: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors of a module, without those of its optimisers and generators."""
    return {key: value for key, value in state.items() if hasattr(value, "shape") and not key.startswith(fresh)}


def _compare_shapes(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str:
    """The first tensor in which two modules differ that are configured alike; empty if there is none."""
    for key in sorted(mine.keys() | theirs.keys()):
        there, here = (_shape(state.get(key)) for state in (theirs, mine))
        if there != here:
            return f"{key} has the shape {there} there, {here} here"
    return ""


def _describe_actions(kind: str) -> str:
    """Describe the actions of a distribution by its `repr`."""
    sizes = re.findall(r"\d+", kind)
    if kind.startswith("Categorical") and sizes:
        return " and ".join(f"one of {size}" for size in sizes)
    return counted(int(sizes[0]), "number") if kind.startswith("DiagonalGaussian") and sizes else kind


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def _outline(state: Any) -> Any:
    """Nested dicts with the lengths of the lists in them."""
    if isinstance(state, dict):
        return {key: _outline(value) for key, value in state.items()}
    return len(state) if isinstance(state, list) else None


def _get(env: Mapping[str, Any], key: str) -> Any:
    """A setting of the environment, which earlier versions may not have had."""
    return env.get(key, LATER.get(f"env.{key}"))
