"""Saves and restores a single environment, together with what its vector environment knows about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from trpo_cli.envs import global_generators, snapshot, snapshot_check
from trpo_cli.envs.global_generators import WorkerGenerators
from trpo_cli.envs.values import copy_plain, restore_value


@dataclass
class Slot:
    """An environment, its last observation, and whether its episode has ended.

    In a worker process, `shared` are the global generators, which belong to the environment.
    """

    env: gymnasium.Env[Any, Any]
    observation: Any = None
    ended: bool = False
    shared: WorkerGenerators | None = None

    def save(self) -> dict[str, Any]:
        """The complete state. Raises `NoSnapshot` as `snapshot.save` does."""
        observation = copy_plain(self.observation)
        state = {"env": snapshot.save(self.env), "observation": observation, "ended": self.ended}
        return state if self.shared is None else {**state, "globals": self.shared.save()}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `save` of this or another slot returned."""
        snapshot.restore(self.env, state["env"])
        self.observation, self.ended = restore_value(state["observation"]), state["ended"]
        if self.shared is not None and "globals" in state:
            self.shared.load(state["globals"])

    def check(self, state: Any) -> None:
        """Raise `CheckpointError` unless `save` of this slot could have returned `state`."""
        if (
            type(state) is not dict
            or state.keys() - {"globals"} != {"env", "observation", "ended"}  # earlier versions did not save "globals"
            or type(state["ended"]) is not bool
        ):
            raise snapshot_check.mismatch("the state, observation or end of an environment is missing")
        snapshot_check.check(self.env, state["env"])
        if "globals" in state:
            global_generators.check(state["globals"])
        if np.shape(state["observation"]) != self.env.observation_space.shape or not snapshot_check.is_plain(
            state["observation"]
        ):
            raise snapshot_check.mismatch("an observation has another shape")

    def load(self, state: Any) -> None:
        """Restore a state from a file. Raises `CheckpointError` if it does not match."""
        self.check(state)
        try:
            self.restore(state)
        except Exception as error:  # `restore_state` is code of the environment
            raise snapshot_check.mismatch(f"{type(error).__name__}: {error}") from error

    def file_obstacle(self) -> str | None:
        """Return why the environment cannot be restored exactly from a file, or None if it can."""
        return snapshot.obstacle(self.env) or snapshot_check.file_obstacle(self.env)


def check_number(state: Any, num_envs: int) -> None:
    """Raise `CheckpointError` unless `state` is a list of as many states as there are environments."""
    if type(state) is not list:
        raise snapshot_check.mismatch("they are those of a MuJoCo batch; see sampler.vectorization")
    if len(state) != num_envs:
        raise snapshot_check.mismatch(f"there are {len(state)} of them instead of {num_envs}")
