"""N simulations of one model, stepped on native threads, and the functions that define a task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mujoco  # type: ignore[import-untyped]
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from mujoco.batch import Batch  # type: ignore[import-untyped]

from trpo_cli.envs.mujoco import contact_forces
from trpo_cli.envs.mujoco.stability import WARNINGS, instability

Array = Any  # NDArray of floats or bools; the fields of mjData are untyped
Terms = dict[str, Array]
Settings = Any  # Gymnasium's environment, whose private attributes hold its arguments


def no_terms(sim: Simulations) -> Terms:
    return {}


def reads_contacts(settings: Settings) -> bool:
    return True


@dataclass(frozen=True)
class MujocoTask:
    """The functions of a task. What `track` returns before and after a step is available as `before` and `after`."""

    observe: Callable[[Simulations], list[Array]]  # the parts of the observation, each (N, ...)
    reward: Callable[[Simulations, Array], tuple[Array, Terms]]  # for actions (N, A); the terms become infos
    healthy: Callable[[Simulations], Array] | None = None  # (N,) bool; an episode ends where it is false
    track: Callable[[Simulations], Array] | None = None  # (N, k)
    position: Callable[[Simulations], Terms] = no_terms  # infos after a reset and every step
    contact_forces: Callable[[Settings], bool] = lambda settings: False  # whether `cfrc_ext` is read


class Simulations:
    """N simulations of one model. Fields of `mjData` can be read as attributes, which are live arrays (N, ...)."""

    def __init__(self, settings: MujocoEnv, task: MujocoTask, num_envs: int, num_threads: int) -> None:
        self.settings: Any = settings
        self._task = task
        self._contacts = bool(task.contact_forces(settings))
        model = contact_forces.model_with_plugin(settings) if self._contacts else settings.model
        # Without the plugin, contact forces are computed from each simulation's mjData, which a persistent batch keeps.
        self.batch = Batch(model or settings.model, num_envs, num_threads, persistent=model is None)
        self._data: Any = mujoco.MjData(settings.model) if self.batch.persistent else None
        self.cfrc_ext = np.zeros((num_envs, settings.model.nbody, 6))
        self.tables: list[Array] = [
            self.batch.state,
            self.cfrc_ext,
        ]  # the complete state: one row of each per simulation
        self._unstable = self.batch.warning[:, WARNINGS, 1]  # (N, 4) counts
        self.dt, self._frame_skip, self.mass = settings.dt, settings.frame_skip, settings.model.body_mass.copy()
        self.before: Array = np.zeros((num_envs, 0))
        self.after: Array = self.before
        self.healthy: Array = self.before
        self._read_every_field()
        self.batch.reset()
        self._fresh = self.batch.state[0].copy()

    def _read_every_field(self) -> None:
        """Read all fields, since a derived field is filled only by calls after it has first been read."""
        self._update_derived()
        self.before = self.after
        action = np.zeros((self.batch.nsim, self.batch.model.nu), dtype=np.float32)
        _ = self._task.observe(self), self._task.position(self), self._task.reward(self, action)
        if self._contacts:
            self._measure_contacts()

    def __getattr__(self, field: str) -> Array:
        array = self.batch.bind(field)
        if not array.flags.writeable:  # derived fields are not part of the state and cannot be recomputed
            self.tables.append(array.base)
        setattr(self, field, array)
        return array

    def body(self, name: str | int) -> Array:
        """Positions (N, 3) of a body's frame."""
        return self.xpos[:, self.batch.model.body(name).id]

    @property
    def velocity(self) -> Array:
        """The velocity (N, k) of what the task tracks."""
        return (self.after - self.before) / self.dt

    def step(self, action: Array) -> None:
        """Apply the actions (N, A) for one step of the task. Raises `Failure` if a simulation becomes unstable."""
        self.before = self.after
        self.ctrl[:] = action
        self.batch.step(nstep=self._frame_skip)
        if np.count_nonzero(self._unstable):  # a tenth of the time of `any`
            row = int(self._unstable.any(1).argmax())
            raise instability(row, self._unstable[row])
        if self._contacts:
            self._measure_contacts()
        self._update_derived()

    def restart(self, rows: Array, positions: Array, velocities: Array) -> None:
        """Start the simulations `rows` (K,) in new states (K, nq) and (K, nv), as Gymnasium's reset does."""
        self.batch.state[rows] = self._fresh
        self._unstable[rows] = 0
        self.qpos[rows], self.qvel[rows] = positions, velocities
        self.batch.forward(rows)
        self.cfrc_ext[rows] = 0
        self._track()

    def save(self, rows: Array) -> list[list[Array]]:
        """The states of the simulations `rows` (K,), each with the fields derived from it in the last substep."""
        copies = [table[rows] for table in self.tables]
        return [[copy[k] for copy in copies] for k in range(len(rows))]

    def restore(self, rows: Array, saved: Sequence[list[Array]]) -> None:
        """Restore the `saved` (K,) states to the simulations `rows` (K,)."""
        for table, column in zip(self.tables, zip(*saved, strict=True), strict=True):
            table[rows] = column
        self._unstable[rows] = 0
        self._update_derived()

    def load(self, tables: Sequence[Array]) -> None:
        """Restore all states from copies of `tables`."""
        for own, table in zip(self.tables, tables, strict=True):
            own[:] = table
        self._unstable[:] = 0
        self._update_derived()

    def _track(self) -> None:
        if self._task.track is not None:
            self.after = self._task.track(self).copy()

    def _update_derived(self) -> None:
        self._track()
        if self._task.healthy is not None:
            self.healthy = self._task.healthy(self)

    def _measure_contacts(self) -> None:
        """Fill `cfrc_ext` as Gymnasium does after a step; after a reset it is zero."""
        if not self.batch.persistent:
            self.cfrc_ext[:] = self.batch.cfrc_ext
            return
        for row, forces in enumerate(self.cfrc_ext):
            self.batch.get_data(row, self._data)
            mujoco.mj_rnePostConstraint(self.settings.model, self._data)
            forces[:] = self._data.cfrc_ext
