"""Bodies that move freely in the plane: Swimmer, Ant."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from gymnasium.envs.mujoco import ant_v4, ant_v5, swimmer_v4, swimmer_v5

from trpo_cli.envs.mujoco.simulations import Array, MujocoTask, Simulations, Terms, reads_contacts
from trpo_cli.envs.mujoco.tasks.common import (
    clipped,
    control_cost,
    coordinates,
    healthy_reward_v4,
    healthy_reward_v5,
    norm,
    squares,
)
from trpo_cli.envs.mujoco.tasks.planar import run_reward


def flat_position(of: Callable[[Simulations], Array], sim: Simulations) -> Terms:
    """The position in the plane and its distance from the origin."""
    xy = of(sim)
    return {"x_position": xy[:, 0].copy(), "y_position": xy[:, 1].copy(), "distance_from_origin": norm(xy)}


def joint_xy(sim: Simulations) -> Array:
    return sim.qpos[:, :2]


def tracked_xy(sim: Simulations) -> Array:
    return sim.after


def xy_velocity(sim: Simulations) -> Terms:
    return {"x_velocity": sim.velocity[:, 0], "y_velocity": sim.velocity[:, 1]}


def swim_reward_v4(sim: Simulations, action: Array) -> tuple[Array, Terms]:
    reward, terms = run_reward("reward_fwd", sim, action)
    return reward, {**terms, **xy_velocity(sim), "forward_reward": terms["reward_fwd"]}


def swim_reward_v5(sim: Simulations, action: Array) -> tuple[Array, Terms]:
    reward, terms = run_reward("reward_forward", sim, action)
    return reward, {**terms, **xy_velocity(sim)}


def torso(sim: Simulations) -> Array:
    return sim.body("torso")[:, :2]


def main_body(sim: Simulations) -> Array:
    return sim.body(sim.settings._main_body)[:, :2]


def ant_healthy(sim: Simulations) -> Array:
    low, high = sim.settings._healthy_z_range
    z = sim.qpos[:, 2]
    return np.isfinite(sim.qpos).all(-1) & np.isfinite(sim.qvel).all(-1) & (low <= z) & (z <= high)


def clipped_contacts(sim: Simulations) -> Array:
    """Contact forces and torques (N, bodies, 6), clipped."""
    return clipped(sim.cfrc_ext, *sim.settings._contact_force_range)


def ant_contact_cost(sim: Simulations) -> Array:
    return sim.settings._contact_cost_weight * squares(clipped_contacts(sim))


def ant_reward_v4(sim: Simulations, action: Array) -> tuple[Array, Terms]:
    forward, survive = sim.velocity[:, 0], healthy_reward_v4(sim)
    costs = cost = control_cost(sim, action)
    if sim.settings._use_contact_forces:
        cost = ant_contact_cost(sim)
        costs = costs + cost
    terms = {"reward_forward": forward, "reward_ctrl": -cost, "reward_survive": survive, "forward_reward": forward}
    return forward + survive - costs, {**terms, **xy_velocity(sim)}


def ant_reward_v5(sim: Simulations, action: Array) -> tuple[Array, Terms]:
    forward, survive = sim.velocity[:, 0] * sim.settings._forward_reward_weight, healthy_reward_v5(sim)
    control, contact = control_cost(sim, action), ant_contact_cost(sim)
    terms = {"reward_forward": forward, "reward_survive": survive, **xy_velocity(sim)}
    terms |= {"reward_ctrl": -control, "reward_contact": -contact}
    return forward + survive - (control + contact), terms


def ant_observe_v4(sim: Simulations) -> list[Array]:
    contacts = [clipped_contacts(sim)] if sim.settings._use_contact_forces else []
    return [*coordinates(2, None, sim), *contacts]


def ant_observe_v5(sim: Simulations) -> list[Array]:
    contacts = [clipped_contacts(sim)[:, 1:]] if sim.settings._include_cfrc_ext_in_observation else []
    return [*coordinates(2, None, sim), *contacts]


TASKS: dict[type, MujocoTask] = {
    swimmer_v4.SwimmerEnv: MujocoTask(
        partial(coordinates, 2, None), swim_reward_v4, track=joint_xy, position=partial(flat_position, joint_xy)
    ),
    swimmer_v5.SwimmerEnv: MujocoTask(
        partial(coordinates, 2, None), swim_reward_v5, track=joint_xy, position=partial(flat_position, joint_xy)
    ),
    ant_v4.AntEnv: MujocoTask(
        ant_observe_v4,
        ant_reward_v4,
        ant_healthy,
        torso,
        partial(flat_position, tracked_xy),
        contact_forces=lambda settings: settings._use_contact_forces,
    ),
    ant_v5.AntEnv: MujocoTask(
        ant_observe_v5, ant_reward_v5, ant_healthy, main_body, partial(flat_position, joint_xy), reads_contacts
    ),
}
