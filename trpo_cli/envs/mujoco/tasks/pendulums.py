"""Pendulums on a cart, single and double."""

from __future__ import annotations

from functools import partial

import numpy as np
from gymnasium.envs.mujoco import (
    inverted_double_pendulum_v4,
    inverted_double_pendulum_v5,
    inverted_pendulum_v4,
    inverted_pendulum_v5,
)

from trpo_cli.envs.mujoco.simulations import Array, MujocoTask, Simulations, Terms
from trpo_cli.envs.mujoco.tasks.common import all_coordinates, clipped


def pole_up(sim: Simulations) -> Array:
    finite = np.isfinite(sim.qpos).all(-1) & np.isfinite(sim.qvel).all(-1)
    return finite & ~(np.abs(sim.qpos[:, 1]) > 0.2)


def constant_reward(sim: Simulations, action: Array) -> tuple[Array, Terms]:
    return np.ones(len(action)), {}


def pole_reward(sim: Simulations, action: Array) -> tuple[Array, Terms]:
    reward = sim.healthy.astype(float)
    return reward, {"reward_survive": reward}


def tip_up(sim: Simulations) -> Array:
    return ~(sim.site_xpos[:, 0, 2] <= 1)


def double_pole_observe(forces: int, sim: Simulations) -> list[Array]:
    angles = np.ascontiguousarray(sim.qpos[:, 1:])
    velocity, force = clipped(sim.qvel, -10, 10), clipped(sim.qfrc_constraint, -10, 10)
    return [sim.qpos[:, :1], np.sin(angles), np.cos(angles), velocity, force[:, :forces]]


def double_pole_penalties(sim: Simulations) -> tuple[Array, Array]:
    """The penalties (N,) for the distance of the tip from its target and for speed."""
    # Gymnasium's scalars use `pow` of the C library, whereas x**2 of an array is x * x, which rounds differently.
    power = np.float_power
    x, y = sim.site_xpos[:, 0, 0], sim.site_xpos[:, 0, 2]
    distance = 0.01 * power(x, 2) + power(y - 2, 2)
    return distance, 1e-3 * power(sim.qvel[:, 1], 2) + 5e-3 * power(sim.qvel[:, 2], 2)


def double_pole_reward_v4(sim: Simulations, action: Array) -> tuple[Array, Terms]:
    distance, velocity = double_pole_penalties(sim)
    return 10 - distance - velocity, {}


def double_pole_reward_v5(sim: Simulations, action: Array) -> tuple[Array, Terms]:
    distance, velocity = double_pole_penalties(sim)
    alive = sim.settings._healthy_reward * sim.healthy
    terms = {"reward_survive": alive, "distance_penalty": -distance, "velocity_penalty": -velocity}
    return alive - distance - velocity, terms


TASKS: dict[type, MujocoTask] = {
    inverted_pendulum_v4.InvertedPendulumEnv: MujocoTask(all_coordinates, constant_reward, pole_up),
    inverted_pendulum_v5.InvertedPendulumEnv: MujocoTask(all_coordinates, pole_reward, pole_up),
    inverted_double_pendulum_v4.InvertedDoublePendulumEnv: MujocoTask(
        partial(double_pole_observe, 3), double_pole_reward_v4, tip_up
    ),
    inverted_double_pendulum_v5.InvertedDoublePendulumEnv: MujocoTask(
        partial(double_pole_observe, 1), double_pole_reward_v5, tip_up
    ),
}
