"""Saves and restores single environments of a vector, each with what the vector knows about it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv
from numpy.typing import NDArray

from trpo_cli.envs import global_generators, snapshot, snapshot_check
from trpo_cli.envs.global_generators import WorkerGenerators

log = logging.getLogger("trpo_cli")
OTHER_GLOBALS = (
    "this resume is not exact: the environments drew from global generators, each in its own process, but now they "
    "share a process; see sampler.vectorization"
)


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
        observation = snapshot.copy_plain(self.observation)
        state = {"env": snapshot.save(self.env), "observation": observation, "ended": self.ended}
        return state if self.shared is None else {**state, "globals": self.shared.save()}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `save` of this or another slot returned."""
        snapshot.restore(self.env, state["env"])
        self.observation, self.ended = snapshot.restore_value(state["observation"]), state["ended"]
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

    def obstacle(self) -> str | None:
        """Why the environment cannot be restored exactly from a file; None if it can."""
        return snapshot.obstacle(self.env) or snapshot_check.file_obstacle(self.env)


class Slots:
    """The environments of a `SyncVectorEnv` without autoreset."""

    def __init__(self, envs: SyncVectorEnv[Any, Any]) -> None:
        self._envs = envs

    def snapshot_obstacle(self) -> str | None:
        """Why one of them cannot be saved and restored exactly; None if all can."""
        return next(filter(None, map(snapshot.obstacle, self._envs.envs)), None)

    def obstacle(self) -> str | None:
        """Why one of them cannot be restored exactly from a file; None if all can."""
        return next(filter(None, (self._slot(row).obstacle() for row in range(self._envs.num_envs))), None)

    def save(self, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
        """The complete states of the environments `rows` (K,). Raises `NoSnapshot` as `snapshot.save` does."""
        return [self._slot(row).save() for row in rows.tolist()]

    def restore(self, rows: NDArray[np.int64], snapshots: Sequence[dict[str, Any]]) -> None:
        """Restore `snapshots` (K,) of these or other environments to the environments `rows` (K,)."""
        for row, state in zip(rows.tolist(), snapshots, strict=True):
            slot = self._slot(row)
            slot.restore(state)
            self._keep(row, slot)

    def reseed(self, rows: NDArray[np.int64], seeds: Sequence[int]) -> None:
        """Seed the generators of the environments `rows` (K,) with `seeds` (K,)."""
        for row, seed in zip(rows.tolist(), seeds, strict=True):
            snapshot.reseed(self._envs.envs[row], seed)

    def state_dict(self) -> list[dict[str, Any]]:
        """The complete states of all environments."""
        return self.save(np.arange(self._envs.num_envs))

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Restore what `state_dict` of `Slots` or `Workers` returned. Raises `CheckpointError` if it does not match."""
        for row, one in enumerate(state):
            slot = self._slot(row)
            slot.load(one)
            self._keep(row, slot)
        if any(one.get("globals", {}).get("drawn") for one in state):
            log.warning("%s", OTHER_GLOBALS)

    def _slot(self, row: int) -> Slot:
        envs: Any = self._envs
        return Slot(envs.envs[row], envs._env_obs[row], bool(envs._autoreset_envs[row]))

    def _keep(self, row: int, slot: Slot) -> None:
        envs: Any = self._envs
        envs._env_obs[row] = slot.observation  # a reset of other environments returns it again
        envs._autoreset_envs[row] = slot.ended  # it refuses to step ended episodes
