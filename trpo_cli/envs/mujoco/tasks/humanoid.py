"""Humanoid, which walks or stands up."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from gymnasium.envs.mujoco import humanoid_v4, humanoid_v5, humanoidstandup_v4, humanoidstandup_v5

from trpo_cli.envs.mujoco.simulations import Array, MujocoTask, Settings, Simulations, Terms, reads_contacts
from trpo_cli.envs.mujoco.tasks.common import clipped, coordinates, healthy_reward_v4, healthy_reward_v5, squares
from trpo_cli.envs.mujoco.tasks.free import flat_position, joint_xy, tracked_xy, xy_velocity


def mass_center(sim: Simulations) -> Array:
    return (np.einsum("b,nbj->nj", sim.mass, sim.xipos) / sim.mass.sum())[:, :2]


def humanoid_healthy(sim: Simulations) -> Array:
    low, high = sim.settings._healthy_z_range
    z = sim.qpos[:, 2]
    return (low < z) & (z < high)


def actuation_cost(sim: Simulations) -> Array:
    """Cost (N,) of the controls as the engine holds them, in float64."""
    return sim.settings._ctrl_cost_weight * squares(sim.ctrl)


def humanoid_reward_v4(sim: Simulations, action: Array) -> tuple[Array, Terms]:
    cost, survive = actuation_cost(sim), healthy_reward_v4(sim)
    forward = sim.settings._forward_reward_weight * sim.velocity[:, 0]
    terms = {"reward_linvel": forward, "reward_quadctrl": -cost, "reward_alive": survive, "forward_reward": forward}
    return forward + survive - cost, {**terms, **xy_velocity(sim)}


def humanoid_reward_v5(sim: Simulations, action: Array) -> tuple[Array, Terms]:
    settings, control, survive = sim.settings, actuation_cost(sim), healthy_reward_v5(sim)
    forward = settings._forward_reward_weight * sim.velocity[:, 0]
    contact = clipped(settings._contact_cost_weight * squares(sim.cfrc_ext), *settings._contact_cost_range)
    terms = {"reward_forward": forward, "reward_survive": survive, **xy_velocity(sim)}
    terms |= {"reward_ctrl": -control, "reward_contact": -contact}
    return forward + survive - (control + contact), terms


def humanoid_observe_v4(sim: Simulations) -> list[Array]:
    return [*coordinates(2, None, sim), sim.cinert, sim.cvel, sim.qfrc_actuator, sim.cfrc_ext]


def standup_observe_v4(sim: Simulations) -> list[Array]:
    return [sim.qpos[:, 2:], sim.qvel, sim.cinert, sim.cvel, sim.qfrc_actuator, sim.cfrc_ext]


def humanoid_observe_v5(sim: Simulations) -> list[Array]:
    """Leaves out the world (body 0) and the six coordinates of the root, which no actuator moves."""
    settings = sim.settings
    optional = (
        (settings._include_cinert_in_observation, lambda: sim.cinert[:, 1:]),
        (settings._include_cvel_in_observation, lambda: sim.cvel[:, 1:]),
        (settings._include_qfrc_actuator_in_observation, lambda: sim.qfrc_actuator[:, 6:]),
        (settings._include_cfrc_ext_in_observation, lambda: sim.cfrc_ext[:, 1:]),
    )
    return [*coordinates(2, None, sim), *(part() for wanted, part in optional if wanted)]


def tendons(sim: Simulations) -> Terms:
    return {"tendon_length": sim.ten_length.copy(), "tendon_velocity": sim.ten_velocity.copy()}


def humanoid_position_v5(sim: Simulations) -> Terms:
    return {**flat_position(joint_xy, sim), **tendons(sim)}


def standup_position_v5(sim: Simulations) -> Terms:
    height = sim.qpos[:, 2] - sim.settings.init_qpos[2]
    xy = {"x_position": sim.qpos[:, 0].copy(), "y_position": sim.qpos[:, 1].copy()}
    return {**xy, "z_distance_from_origin": height, **tendons(sim)}


def standup_reward(
    weights: Callable[[Settings], tuple[float, float, tuple[float, float]]], sim: Simulations, action: Array
) -> tuple[Array, Terms]:
    """Height per time step, minus the costs of control and impacts, plus one."""
    control_weight, impact_weight, impact_range = weights(sim.settings)
    height = sim.qpos[:, 2] / sim.settings.model.opt.timestep
    control = control_weight * squares(sim.ctrl)
    impact = clipped(impact_weight * squares(sim.cfrc_ext), *impact_range)
    terms = {"reward_linup": height, "reward_quadctrl": -control, "reward_impact": -impact}
    return height - control - impact + 1, terms


def standup_weights_v4(settings: Settings) -> tuple[float, float, tuple[float, float]]:
    return 0.1, 0.5e-6, (-np.inf, 10)


def standup_weights_v5(settings: Settings) -> tuple[float, float, tuple[float, float]]:
    return settings._ctrl_cost_weight, settings._impact_cost_weight, settings._impact_cost_range


TASKS: dict[type, MujocoTask] = {
    humanoid_v4.HumanoidEnv: MujocoTask(
        humanoid_observe_v4,
        humanoid_reward_v4,
        humanoid_healthy,
        mass_center,
        partial(flat_position, tracked_xy),
        reads_contacts,
    ),
    humanoid_v5.HumanoidEnv: MujocoTask(
        humanoid_observe_v5, humanoid_reward_v5, humanoid_healthy, mass_center, humanoid_position_v5, reads_contacts
    ),
    humanoidstandup_v4.HumanoidStandupEnv: MujocoTask(
        standup_observe_v4, partial(standup_reward, standup_weights_v4), contact_forces=reads_contacts
    ),
    humanoidstandup_v5.HumanoidStandupEnv: MujocoTask(
        humanoid_observe_v5,
        partial(standup_reward, standup_weights_v5),
        position=standup_position_v5,
        contact_forces=reads_contacts,
    ),
}
