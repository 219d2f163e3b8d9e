"""Environments one by one, each with what a vector keeps of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv
from numpy.typing import NDArray

from trpo_cli.envs import fitting, global_generators, snapshot
from trpo_cli.envs.global_generators import Globals

log = logging.getLogger("trpo_cli")
OTHER_GLOBALS = (
    "this resume is not exact: the environments drew from global generators, each from those of its own process, and "
    "now they share a process; see sampler.vectorization"
)


@dataclass
class Place:
    """An environment, the observation it last gave, and whether its episode has ended.

    In a worker process, the global generators are the environment's own.
    """

    env: gymnasium.Env[Any, Any]
    observation: Any = None
    ended: bool = False
    shared: Globals | None = None

    def save(self) -> dict[str, Any]:
        """The whole state. Raises `EnvironmentFault` as `snapshot.save` does."""
        observation = snapshot.copied(self.observation)
        state = {"env": snapshot.save(self.env), "observation": observation, "ended": self.ended}
        return state if self.shared is None else {**state, "globals": self.shared.save()}

    def restore(self, state: dict[str, Any]) -> None:
        """Put what `save` gave into this place, whichever it was saved from."""
        snapshot.restore(self.env, state["env"])
        self.observation, self.ended = snapshot.restored(state["observation"]), state["ended"]
        if self.shared is not None and "globals" in state:
            self.shared.load(state["globals"])

    def check(self, state: Any) -> None:
        """Raises `CheckpointError` unless `state` is of the kind that `save` gives here."""
        if (
            type(state) is not dict
            or state.keys() - {"globals"} != {"env", "observation", "ended"}  # earlier versions did not keep them
            or type(state["ended"]) is not bool
        ):
            raise fitting.misfit("an environment lacks its state, its observation or its end")
        fitting.check(self.env, state["env"])
        if "globals" in state:
            global_generators.check(state["globals"])
        if np.shape(state["observation"]) != self.env.observation_space.shape or not fitting.plain(
            state["observation"]
        ):
            raise fitting.misfit("an observation of another shape")

    def load(self, state: Any) -> None:
        """Restore what came from a file. Raises `CheckpointError` if it does not fit."""
        self.check(state)
        try:
            self.restore(state)
        except Exception as error:  # `restore_state` is the environment's own
            raise fitting.misfit(f"{type(error).__name__}: {error}") from error

    def obstacle(self) -> str | None:
        """Why it cannot be saved and restored exactly from a file, in a few words; None if it can."""
        return snapshot.obstacle(self.env) or fitting.opaque(self.env)


class Slots:
    """The environments of a `SyncVectorEnv` without autoreset."""

    def __init__(self, envs: SyncVectorEnv[Any, Any]) -> None:
        self._envs = envs

    def snapshot_obstacle(self) -> str | None:
        """Why any of them cannot be saved and restored exactly, in a few words; None if all can."""
        return next(filter(None, map(snapshot.obstacle, self._envs.envs)), None)

    def obstacle(self) -> str | None:
        """The same, from a file."""
        return next(filter(None, (self._place(row).obstacle() for row in range(self._envs.num_envs))), None)

    def save(self, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
        """The whole states of the environments `rows` (K,). Raises `EnvironmentFault` as `snapshot.save` does."""
        return [self._place(row).save() for row in rows.tolist()]

    def restore(self, rows: NDArray[np.int64], snapshots: Sequence[dict[str, Any]]) -> None:
        """Put `snapshots` (K,) into the environments `rows` (K,), whichever they were saved from."""
        for row, state in zip(rows.tolist(), snapshots, strict=True):
            place = self._place(row)
            place.restore(state)
            self._keep(row, place)

    def reseed(self, rows: NDArray[np.int64], seeds: Sequence[int]) -> None:
        """Start the generators of the environments `rows` (K,) anew with `seeds` (K,)."""
        for row, seed in zip(rows.tolist(), seeds, strict=True):
            snapshot.reseed(self._envs.envs[row], seed)

    def state_dict(self) -> list[dict[str, Any]]:
        """The whole states of all environments."""
        return self.save(np.arange(self._envs.num_envs))

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Restore what `state_dict` gave, of these or of `Workers`. Raises `CheckpointError` if it does not fit."""
        for row, one in enumerate(state):
            place = self._place(row)
            place.load(one)
            self._keep(row, place)
        if any(one.get("globals", {}).get("drawn") for one in state):
            log.warning("%s", OTHER_GLOBALS)

    def _place(self, row: int) -> Place:
        envs: Any = self._envs
        return Place(envs.envs[row], envs._env_obs[row], bool(envs._autoreset_envs[row]))

    def _keep(self, row: int, place: Place) -> None:
        envs: Any = self._envs
        envs._env_obs[row] = place.observation  # a reset of others shows it again
        envs._autoreset_envs[row] = place.ended  # it refuses to step what has
