"""MuJoCo tasks as one native batch: bit for bit what `gymnasium.make` gives, at the speed of the engine.

One environment that Gymnasium made holds the model, the spaces and every argument of its constructor, and draws the
initial states; `mujoco.batch` steps all simulations on threads of its own; `tasks` says what is observed and
rewarded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import mujoco  # type: ignore[import-untyped]
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers import OrderEnforcing, TimeLimit

from trpo_cli.envs import generators
from trpo_cli.envs.fitting import misfit, same_table
from trpo_cli.envs.mujoco.simulations import Array, Simulations, Terms
from trpo_cli.envs.mujoco.tasks import TASKS


class MujocoBatch(VectorEnv[Any, Any, Any]):
    """A vector environment that never resets by itself: `reset(options={"reset_mask": mask})` does."""

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012  Gymnasium's way to say it

    def __init__(self, env: gymnasium.Env[Any, Any], num_envs: int, num_threads: int) -> None:
        """`env` is what `gymnasium.make` gave, and `not_exact(env)` is None; it is not to be used again."""
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
        # Gymnasium's own reset draws the state; the batch, not the environment, takes it.
        self._drawn: tuple[Array, Array] = (np.empty(0), np.empty(0))
        settings.set_state = self._take
        settings._get_obs = lambda: None
        self._draw = settings.reset_model

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Reset all, or those of `options["reset_mask"]` (N,) bool; the observations (N, O) of all."""
        if isinstance(seed, int):
            seed = range(seed, seed + self.num_envs)
        rows = np.flatnonzero((options or {}).get("reset_mask", self._all))
        states = [self._draw_state(row, seed[row] if seed is not None else None) for row in rows.tolist()]
        positions, velocities = zip(*states, strict=True)
        self._simulations.restart(rows, np.array(positions), np.array(velocities))
        self._elapsed[rows] = 0
        return self._observe(), self._infos(
            self._task.place(self._simulations), np.isin(np.arange(self.num_envs), rows)
        )

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Of actions (N, A): observation (N, O), reward (N,), terminated (N,) and truncated (N,) bool, infos."""
        sim = self._simulations
        sim.step(actions)
        self._elapsed += 1
        reward, terms = self._task.reward(sim, actions)
        terminated = ~sim.healthy if self._ends else np.zeros(self.num_envs, dtype=bool)
        infos = self._infos({**self._task.place(sim), **terms}, self._all.copy())
        return self._observe(), reward, terminated, self._elapsed >= self._time_limit, infos

    def save(self, rows: Array) -> list[dict[str, Any]]:
        """The whole states of the environments `rows` (K,), which have been reset."""
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
        """Put `snapshots` (K,) into the environments `rows` (K,), whichever they were saved from."""
        if not snapshots:
            return
        self._simulations.restore(rows, [snapshot["simulation"] for snapshot in snapshots])
        for row, snapshot in zip(rows.tolist(), snapshots, strict=True):
            self._elapsed[row] = snapshot["elapsed"]
            self._generator(row).bit_generator.state = snapshot["generator"]

    def reseed(self, rows: Array, seeds: Sequence[int]) -> None:
        """Start the generators of the environments `rows` (K,) anew, as a reset with `seeds` (K,) does."""
        for row, seed in zip(rows.tolist(), seeds, strict=True):
            self._generators[row] = seeding.np_random(seed)[0]

    def snapshot_obstacle(self) -> str | None:
        """A simulation holds nothing that cannot be saved and restored."""
        return None

    obstacle = snapshot_obstacle

    def state_dict(self) -> dict[str, Any]:
        """The whole states of all environments, which have been reset: a few tables (N, ...)."""
        return {
            "tables": [table.copy() for table in self._simulations.tables],
            "elapsed": self._elapsed.copy(),
            "generators": [self._generator(row).bit_generator.state for row in range(self.num_envs)],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave. Raises `CheckpointError` if it does not fit."""
        tables, states, elapsed = state.get("tables"), state.get("generators"), state.get("elapsed")
        own = [self._elapsed, *self._simulations.tables]
        if not (isinstance(tables, list) and isinstance(states, list) and len(states) == self.num_envs):
            raise misfit(f"they lack the tables or the generators of {self.num_envs} simulations")
        if len(own) != 1 + len(tables) or not all(map(same_table, (elapsed, *tables), own)):
            raise misfit("simulations of another model or another number")
        self._generators = [generators.restored(one, None) for one in states]
        self._simulations.load(tables)
        np.copyto(self._elapsed, elapsed)  # type: ignore[arg-type]  # `same_table` looked

    def _observe(self) -> Array:
        parts = [part.reshape(self.num_envs, -1) for part in self._task.observe(self._simulations)]
        return np.concatenate(parts, axis=-1)

    def close_extras(self, **kwargs: Any) -> None:
        """Let go of the simulations and their threads now: the two references below make a circle."""
        del self._simulations.settings.set_state, self._draw, self._simulations

    def _infos(self, terms: Terms, given: Array) -> dict[str, Any]:
        """As Gymnasium's vector environments have them: each value with a mask (N,) of who gave it."""
        return {**terms, **{f"_{name}": given for name in terms}}

    def _take(self, qpos: Array, qvel: Array) -> None:
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


def not_exact(env: gymnasium.Env[Any, Any]) -> str | None:
    """Why a native batch would not be bit for bit the environment that `gymnasium.make` gave, or None if it would."""
    settings: Any = env.unwrapped
    if type(settings) not in TASKS:
        return "no MuJoCo task of Gymnasium's"
    wrapper: Any = env
    while isinstance(wrapper, TimeLimit | OrderEnforcing):
        wrapper = wrapper.env
    if wrapper is not settings:
        return f"wrapped in {type(wrapper).__name__}"
    if settings.render_mode is not None:
        return f"render_mode={settings.render_mode}"
    if settings.model.nplugin or settings.model.na:
        return "the model has plugins or actuators with a state of their own"
    if settings.model.nsensor and TASKS[type(settings)].contact_forces(settings):
        return "the model has sensors, which ask for contact forces at a reset too"
    if settings.model.opt.enableflags & mujoco.mjtEnableBit.mjENBL_SLEEP:
        return "the model lets bodies sleep"
    return None
