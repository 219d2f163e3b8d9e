"""Environments of this process, stepped one after the other."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import concatenate
from numpy.typing import NDArray

from trpo_cli.envs import snapshot
from trpo_cli.envs.backend import Backend
from trpo_cli.envs.failure import Failure
from trpo_cli.envs.global_generators import WorkerGenerators
from trpo_cli.envs.infos import Numbers
from trpo_cli.envs.slot import Slot, check_number
from trpo_cli.envs.watched import Watched

log = logging.getLogger("trpo_cli")
OTHER_GLOBALS = (
    "this resume is not exact: the environments drew from global generators, each in its own process, but now they "
    "share a process; see sampler.vectorization"
)


class InTurn(SyncVectorEnv[Any, Any], Backend):
    """A vector environment without autoreset and without infos; `reset(options={"reset_mask": mask})` resets some."""

    shared: WorkerGenerators | None = None  # the global generators, in the worker process of a single environment

    def __init__(self, make: Callable[[int], Watched], num_envs: int) -> None:
        """`make(i)` makes environment i. If one cannot be made, those before it are closed."""
        made: list[Watched] = []

        def one(index: int) -> Watched:
            made.append(make(index))
            return made[-1]

        makers = [functools.partial(one, index) for index in range(num_envs)]
        try:
            super().__init__(makers, copy=False, autoreset_mode=AutoresetMode.DISABLED)
        except BaseException:
            self.envs: list[Any] = made
            with contextlib.suppress(Failure):  # the error from making them matters more
                self.close_extras()
            raise
        own = [env.unwrapped for env in made]
        self._with_lives: list[Any] = own if all(hasattr(env, "life_lost") for env in own) else []

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        returned = super().step(actions)
        if self._with_lives:
            self.lost = np.array([env.life_lost for env in self._with_lives])
        return returned

    def observations(self) -> Any:
        """Return the present observations (N, ...)."""
        own: Any = self
        return concatenate(self.single_observation_space, own._env_obs, self._observations)

    def close_extras(self, **kwargs: Any) -> None:
        """Close every environment, even if others fail to close. Raises the first `Failure`."""
        failures = []
        for env in self.envs:
            try:
                env.close()
            except Failure as failure:
                failures.append(failure)
        for first in failures:
            raise first

    def read_numbers(self, rows: NDArray[np.int64], names: Sequence[str]) -> list[Numbers]:
        return [self.envs[row].read_numbers(names) for row in rows.tolist()]

    def snapshot_obstacle(self) -> str | None:
        """Why not; with generators of its own, an environment costs more messages than it saves."""
        if self.shared is not None:
            return "they run in worker processes"
        return next(filter(None, map(snapshot.obstacle, self.envs)), None)

    def file_obstacle(self) -> str | None:
        return next(filter(None, (self._slot(row).file_obstacle() for row in range(self.num_envs))), None)

    def save(self, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
        return [self._slot(row).save() for row in rows.tolist()]

    def restore(self, rows: NDArray[np.int64], snapshots: Sequence[dict[str, Any]]) -> None:
        for row, state in zip(rows.tolist(), snapshots, strict=True):
            slot = self._slot(row)
            slot.restore(state)
            self._keep(row, slot)

    def reseed(self, rows: NDArray[np.int64], seeds: Sequence[int]) -> None:
        for row, seed in zip(rows.tolist(), seeds, strict=True):
            snapshot.reseed(self.envs[row], seed)

    def state_dict(self) -> list[dict[str, Any]]:
        return self.save(np.arange(self.num_envs))

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Restore what `state_dict` of `InTurn` or `Workers` returned."""
        check_number(state, self.num_envs)
        for row, one in enumerate(state):
            slot = self._slot(row)
            slot.load(one)
            self._keep(row, slot)
        if self.shared is None and any(one.get("globals", {}).get("drawn") for one in state):
            log.warning("%s", OTHER_GLOBALS)

    def _slot(self, row: int) -> Slot:
        own: Any = self
        return Slot(self.envs[row], own._env_obs[row], bool(own._autoreset_envs[row]), self.shared)

    def _keep(self, row: int, slot: Slot) -> None:
        own: Any = self
        own._env_obs[row] = slot.observation  # a reset of other environments returns it again
        own._autoreset_envs[row] = slot.ended  # it refuses to step ended episodes
