"""Runners in a vertical plane: Hopper, Walker2d, HalfCheetah."""

from __future__ import annotations

from functools import partial

import numpy as np
from gymnasium.envs.mujoco import half_cheetah_v4, half_cheetah_v5, hopper_v4, hopper_v5, walker2d_v4, walker2d_v5

from trpo_cli.envs.mujoco.simulations import Array, MujocoTask, Simulations, Terms
from trpo_cli.envs.mujoco.tasks.common import control_cost, coordinates, healthy_reward_v4, healthy_reward_v5


def x_position(sim: Simulations) -> Array:
    return sim.qpos[:, :1]


def planar_position(sim: Simulations) -> Terms:
    return {"x_position": sim.qpos[:, 0].copy()}


def planar_position_and_height(sim: Simulations) -> Terms:
    return {**planar_position(sim), "z_distance_from_origin": sim.qpos[:, 1] - sim.settings.init_qpos[1]}


def upright(sim: Simulations) -> Array:
    """Whether height and angle of the torso are within their ranges."""
    (min_z, max_z), (min_angle, max_angle) = sim.settings._healthy_z_range, sim.settings._healthy_angle_range
    z, angle = sim.qpos[:, 1], sim.qpos[:, 2]
    return (min_z < z) & (z < max_z) & (min_angle < angle) & (angle < max_angle)


def upright_and_in_range(sim: Simulations) -> Array:
    """Hopper also requires the rest of the state to be within a range."""
    low, high = sim.settings._healthy_state_range
    rest = np.concatenate([sim.qpos[:, 2:], sim.qvel], axis=-1)
    return upright(sim) & ((low < rest) & (rest < high)).all(-1)


def hop_reward_v4(sim: Simulations, action: Array) -> tuple[Array, Terms]:
    velocity = sim.velocity[:, 0]
    rewards = sim.settings._forward_reward_weight * velocity + healthy_reward_v4(sim)
    return rewards - control_cost(sim, action), {"x_velocity": velocity}


def hop_reward_v5(sim: Simulations, action: Array) -> tuple[Array, Terms]:
    velocity, cost, survive = sim.velocity[:, 0], control_cost(sim, action), healthy_reward_v5(sim)
    forward = sim.settings._forward_reward_weight * velocity
    terms = {"x_velocity": velocity, "reward_forward": forward, "reward_ctrl": -cost, "reward_survive": survive}
    return forward + survive - cost, terms


def run_reward(name: str, sim: Simulations, action: Array) -> tuple[Array, Terms]:
    velocity, cost = sim.velocity[:, 0], control_cost(sim, action)
    forward = sim.settings._forward_reward_weight * velocity
    return forward - cost, {"x_velocity": velocity, name: forward, "reward_ctrl": -cost}


TASKS: dict[type, MujocoTask] = {
    hopper_v4.HopperEnv: MujocoTask(
        partial(coordinates, 1, 10), hop_reward_v4, upright_and_in_range, x_position, planar_position
    ),
    hopper_v5.HopperEnv: MujocoTask(
        partial(coordinates, 1, 10), hop_reward_v5, upright_and_in_range, x_position, planar_position_and_height
    ),
    walker2d_v4.Walker2dEnv: MujocoTask(
        partial(coordinates, 1, 10), hop_reward_v4, upright, x_position, planar_position
    ),
    walker2d_v5.Walker2dEnv: MujocoTask(
        partial(coordinates, 1, 10), hop_reward_v5, upright, x_position, planar_position_and_height
    ),
    half_cheetah_v4.HalfCheetahEnv: MujocoTask(
        partial(coordinates, 1, None), partial(run_reward, "reward_run"), track=x_position, position=planar_position
    ),
    half_cheetah_v5.HalfCheetahEnv: MujocoTask(
        partial(coordinates, 1, None), partial(run_reward, "reward_forward"), track=x_position, position=planar_position
    ),
}
