"""N simulations of one model, stepped on threads of their own, and what a task asks of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mujoco  # type: ignore[import-untyped]
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from mujoco.batch import Batch  # type: ignore[import-untyped]

from trpo_cli.envs.mujoco import contact_forces
from trpo_cli.envs.mujoco.stability import WARNINGS, unstable

Array = Any  # NDArray of floats or bools: mjData fields have no types
Terms = dict[str, Array]
Settings = Any  # Gymnasium's environment: its private attributes hold the arguments it was made with


def nothing(sim: Simulations) -> Terms:
    return {}


def reads_contacts(settings: Settings) -> bool:
    return True


@dataclass(frozen=True)
class MujocoTask:
    """`track` is what the reward compares before and after a step; it is kept as `before` and `after`."""

    observe: Callable[[Simulations], list[Array]]  # the parts of the observation, each (N, ...)
    reward: Callable[[Simulations, Array], tuple[Array, Terms]]  # of the actions (N, A); the terms go into the infos
    healthy: Callable[[Simulations], Array] | None = None  # where it is not, an episode ends; None: no end
    track: Callable[[Simulations], Array] | None = None  # (N, k)
    place: Callable[[Simulations], Terms] = nothing  # infos at a reset, and after every step
    contact_forces: Callable[[Settings], bool] = lambda settings: False  # whether any function reads `cfrc_ext`


class Simulations:
    """N simulations of one model. A field of `mjData` that is read as an attribute is a live array (N, ...)."""

    def __init__(self, settings: MujocoEnv, task: MujocoTask, num_envs: int, num_threads: int) -> None:
        self.settings: Any = settings
        self._task = task
        self._contacts = bool(task.contact_forces(settings))
        feeling = contact_forces.feeling(settings) if self._contacts else settings.model
        # Without the plugin, contact forces are asked of each simulation's own mjData, which a persistent batch keeps.
        self.batch = Batch(feeling or settings.model, num_envs, num_threads, persistent=feeling is None)
        self._data: Any = mujoco.MjData(settings.model) if self.batch.persistent else None
        self.cfrc_ext = np.zeros((num_envs, settings.model.nbody, 6))
        self.tables: list[Array] = [self.batch.state, self.cfrc_ext]  # all that a simulation is: one row of each
        self._unstable = self.batch.warning[:, WARNINGS, 1]  # (N, 4), how often
        self.dt, self._frame_skip, self.mass = settings.dt, settings.frame_skip, settings.model.body_mass.copy()
        self.before: Array = np.zeros((num_envs, 0))
        self.after: Array = self.before
        self.healthy: Array = self.before
        self._read_every_field()
        self.batch.reset()
        self._fresh = self.batch.state[0].copy()

    def _read_every_field(self) -> None:
        """A derived field is filled by the first call after it was first read: so read all of them now."""
        self._look()
        self.before = self.after
        action = np.zeros((self.batch.nsim, self.batch.model.nu), dtype=np.float32)
        _ = self._task.observe(self), self._task.place(self), self._task.reward(self, action)
        if self._contacts:
            self._measure_contacts()

    def __getattr__(self, field: str) -> Array:
        array = self.batch.bind(field)
        if not array.flags.writeable:  # a derived field: no part of the state, and not to be had from it
            self.tables.append(array.base)
        setattr(self, field, array)
        return array

    def body(self, name: str | int) -> Array:
        """Positions (N, 3) of a body's frame."""
        return self.xpos[:, self.batch.model.body(name).id]

    @property
    def velocity(self) -> Array:
        """Of what the task tracks, (N, k)."""
        return (self.after - self.before) / self.dt

    def step(self, action: Array) -> None:
        """Apply the actions (N, A) for one step of the task. Raises `Failure` if a simulation becomes unstable."""
        self.before = self.after
        self.ctrl[:] = action
        self.batch.step(nstep=self._frame_skip)
        if self._unstable.any():
            row = int(self._unstable.any(1).argmax())
            raise unstable(row, self._unstable[row])
        if self._contacts:
            self._measure_contacts()
        self._look()

    def restart(self, rows: Array, positions: Array, velocities: Array) -> None:
        """Put the simulations `rows` (K,) into new states (K, nq) and (K, nv), as a reset of Gymnasium's does."""
        self.batch.state[rows] = self._fresh
        self._unstable[rows] = 0
        self.qpos[rows], self.qvel[rows] = positions, velocities
        self.batch.forward(rows)
        self.cfrc_ext[rows] = 0
        self._track()

    def save(self, rows: Array) -> list[list[Array]]:
        """Of each of the simulations `rows` (K,): its state, and what was derived from it a substep before."""
        copies = [table[rows] for table in self.tables]
        return [[copy[k] for copy in copies] for k in range(len(rows))]

    def restore(self, rows: Array, saved: Sequence[list[Array]]) -> None:
        """Put what was `saved` (K,) into the simulations `rows` (K,)."""
        for table, column in zip(self.tables, zip(*saved, strict=True), strict=True):
            table[rows] = column
        self._unstable[rows] = 0
        self._look()

    def load(self, tables: Sequence[Array]) -> None:
        """Restore copies of all `tables`."""
        for own, table in zip(self.tables, tables, strict=True):
            own[:] = table
        self._unstable[:] = 0
        self._look()

    def _track(self) -> None:
        if self._task.track is not None:
            self.after = self._task.track(self).copy()

    def _look(self) -> None:
        self._track()
        if self._task.healthy is not None:
            self.healthy = self._task.healthy(self)

    def _measure_contacts(self) -> None:
        """Fill `cfrc_ext`, as Gymnasium does after a step; a reset leaves it zero."""
        if not self.batch.persistent:
            self.cfrc_ext[:] = self.batch.cfrc_ext
            return
        for row, forces in enumerate(self.cfrc_ext):
            self.batch.get_data(row, self._data)
            mujoco.mj_rnePostConstraint(self.settings.model, self._data)
            forces[:] = self._data.cfrc_ext
