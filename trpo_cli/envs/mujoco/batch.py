"""MuJoCo tasks as one native batch: bit for bit the environments of `gymnasium.make`, at the speed of the engine.

A single environment of Gymnasium provides the model, the spaces and the constructor's arguments, and draws the initial
states. `mujoco.batch` steps all simulations on its own threads. `tasks` defines the observations and rewards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import mujoco  # type: ignore[import-untyped]
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers import OrderEnforcing, TimeLimit

from trpo_cli.envs import generators
from trpo_cli.envs.backend import Backend
from trpo_cli.envs.infos import Numbers, read_numbers
from trpo_cli.envs.mujoco.simulations import Array, Simulations, Terms
from trpo_cli.envs.mujoco.tasks import TASKS
from trpo_cli.envs.snapshot_check import has_layout_of, mismatch


class MujocoBatch(Backend):
    """A vector environment without autoreset, to be reset by `reset(options={"reset_mask": mask})`."""

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012  as in Gymnasium

    def __init__(self, env: gymnasium.Env[Any, Any], num_envs: int, num_threads: int) -> None:
        """`env` comes from `gymnasium.make`, has no `batch_obstacle`, and must not be used elsewhere."""
        settings: Any = env.unwrapped
        self.num_envs, self.spec = num_envs, env.spec
        self.single_observation_space, self.single_action_space = env.observation_space, env.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._task = TASKS[type(settings)]
        self._simulations = Simulations(settings, self._task, num_envs, num_threads)
        self._ends = bool(self._task.healthy) and getattr(settings, "_terminate_when_unhealthy", True)
        self._time_limit = env._max_episode_steps if isinstance(env, TimeLimit) else np.inf
        self._elapsed = np.zeros(num_envs, dtype=np.int64)
        self._generators: list[np.random.Generator | None] = [None] * num_envs
        self._all = np.ones(num_envs, dtype=bool)
        self._terms: Terms = {}  # of the reward of the last step
        # Gymnasium's reset draws the initial state, and the batch receives it instead of the environment.
        self._drawn: tuple[Array, Array] = (np.empty(0), np.empty(0))
        settings.set_state = self._keep_drawn_state
        settings._get_obs = lambda: None
        self._draw = settings.reset_model

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Reset all environments or those in `options["reset_mask"]` (N,) bool; return all observations (N, O)."""
        if isinstance(seed, int):
            seed = range(seed, seed + self.num_envs)
        mask = (options or {}).get("reset_mask", self._all)
        rows = np.flatnonzero(mask)
        states = [self._draw_state(row, seed[row] if seed is not None else None) for row in rows.tolist()]
        positions, velocities = zip(*states, strict=True)
        self._simulations.restart(rows, np.array(positions), np.array(velocities))
        self._elapsed[rows] = 0
        return self._observe(), {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Take actions (N, A); return observations (N, O), rewards (N,), terminated and truncated (N,) bool, {}."""
        sim = self._simulations
        sim.step(actions)
        self._elapsed += 1
        reward, self._terms = self._task.reward(sim, actions)
        terminated = ~sim.healthy if self._ends else np.zeros(self.num_envs, dtype=bool)
        return self._observe(), reward, terminated, self._elapsed >= self._time_limit, {}

    def infos(self) -> Terms:
        """What Gymnasium tells of the last step in its infos, by name (N,). Call it before a reset."""
        return {**self._task.position(self._simulations), **self._terms}

    def read_numbers(self, rows: Array, names: Sequence[str]) -> list[Numbers]:
        told = self.infos()
        infos = ({name: values[row] for name, values in told.items()} for row in rows.tolist())
        return [read_numbers(info, names, row) for info, row in zip(infos, rows.tolist(), strict=True)]

    def save(self, rows: Array) -> list[dict[str, Any]]:
        """The complete states of the environments `rows` (K,), which have been reset."""
        simulations = self._simulations.save(rows)
        return [
            {
                "simulation": simulation,
                "elapsed": int(self._elapsed[row]),
                "generator": self._generator(row).bit_generator.state,
            }
            for row, simulation in zip(rows.tolist(), simulations, strict=True)
        ]

    def restore(self, rows: Array, snapshots: Sequence[dict[str, Any]]) -> None:
        """Restore `snapshots` (K,) of these or other environments to the environments `rows` (K,)."""
        if not snapshots:
            return
        self._simulations.restore(rows, [snapshot["simulation"] for snapshot in snapshots])
        for row, snapshot in zip(rows.tolist(), snapshots, strict=True):
            self._elapsed[row] = snapshot["elapsed"]
            self._generator(row).bit_generator.state = snapshot["generator"]

    def reseed(self, rows: Array, seeds: Sequence[int]) -> None:
        """Seed the generators of the environments `rows` (K,), as a reset with `seeds` (K,) does."""
        for row, seed in zip(rows.tolist(), seeds, strict=True):
            self._generators[row] = seeding.np_random(seed)[0]

    def snapshot_obstacle(self) -> str | None:
        """None, since all simulations can be saved and restored."""
        return None

    file_obstacle = snapshot_obstacle

    def state_dict(self) -> dict[str, Any]:
        """The complete states of all environments, which have been reset, as a few tables (N, ...)."""
        return {
            "tables": [table.copy() for table in self._simulations.tables],
            "elapsed": self._elapsed.copy(),
            "generators": [self._generator(row).bit_generator.state for row in range(self.num_envs)],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned. Raises `CheckpointError` if it does not match."""
        if type(state) is not dict:
            raise mismatch("they are not those of a MuJoCo batch; see sampler.vectorization")
        tables, states, elapsed = state.get("tables"), state.get("generators"), state.get("elapsed")
        own = [self._elapsed, *self._simulations.tables]
        if not (isinstance(tables, list) and isinstance(states, list) and len(states) == self.num_envs):
            raise mismatch(f"the tables or generators of {self.num_envs} simulations are missing")
        if len(own) != 1 + len(tables) or not all(map(has_layout_of, (elapsed, *tables), own)):
            raise mismatch("the simulations have another model or number")
        self._generators = [generators.restore_generator(one, None) for one in states]
        self._simulations.load(tables)
        np.copyto(self._elapsed, elapsed)  # type: ignore[arg-type]  # checked by `has_layout_of`

    def _observe(self) -> Array:
        parts = [part.reshape(self.num_envs, -1) for part in self._task.observe(self._simulations)]
        return np.concatenate(parts, axis=-1)

    def close_extras(self, **kwargs: Any) -> None:
        """Free the simulations and their threads, which reference cycles would otherwise keep alive."""
        del self._simulations.settings.set_state, self._draw, self._simulations

    def _keep_drawn_state(self, qpos: Array, qvel: Array) -> None:
        self._drawn = qpos.copy(), qvel.copy()

    def _draw_state(self, row: int, seed: int | None) -> tuple[Array, Array]:
        if seed is not None:
            self._generators[row] = seeding.np_random(seed)[0]
        self._simulations.settings._np_random = self._generator(row)
        self._draw()
        return self._drawn

    def _generator(self, row: int) -> np.random.Generator:
        generator = self._generators[row]
        if generator is None:
            generator = self._generators[row] = seeding.np_random()[0]
        return generator


def batch_obstacle(env: gymnasium.Env[Any, Any]) -> str | None:
    """Why a native batch would not equal the environment from `gymnasium.make` bit for bit; None if it would."""
    settings: Any = env.unwrapped
    if type(settings) not in TASKS:
        return "it is not a MuJoCo task of Gymnasium"
    wrapper: Any = env
    while type(wrapper) in (TimeLimit, OrderEnforcing):
        wrapper = wrapper.env
    if wrapper is not settings:
        return f"it is wrapped in {type(wrapper).__name__}"
    if settings.render_mode is not None:
        return f"render_mode={settings.render_mode}"
    if settings.model.nplugin or settings.model.na:
        return "the model has plugins or actuators with a state of their own"
    if settings.model.nsensor and TASKS[type(settings)].contact_forces(settings):
        return "the model has sensors, which compute contact forces at a reset too"
    if settings.model.opt.enableflags & mujoco.mjtEnableBit.mjENBL_SLEEP:
        return "the model lets bodies sleep"
    return None
