"""Gymnasium's MuJoCo tasks, each as what is observed, what is rewarded and when it ends.

Functions of `Simulations`, with arrays (N, ...) where Gymnasium has one environment. The order and the precision of
every operation are Gymnasium's, so that results agree to the last bit. Weights and ranges are attributes of `settings`,
the Gymnasium environment: none is repeated here. Metres, seconds, radians.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.envs.mujoco import (
    ant_v4,
    ant_v5,
    half_cheetah_v4,
    half_cheetah_v5,
    hopper_v4,
    hopper_v5,
    humanoid_v4,
    humanoid_v5,
    humanoidstandup_v4,
    humanoidstandup_v5,
    inverted_double_pendulum_v4,
    inverted_double_pendulum_v5,
    inverted_pendulum_v4,
    inverted_pendulum_v5,
    pusher_v5,
    reacher_v4,
    reacher_v5,
    swimmer_v4,
    swimmer_v5,
    walker2d_v4,
    walker2d_v5,
)

if TYPE_CHECKING:
    from trpo_cli.envs.mujoco_batch import Simulations

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


def coordinates(hidden: int, limit: float | None, sim: Simulations) -> list[Array]:
    """Positions and velocities (clipped to +-`limit`), but for the `hidden` first positions, where it is in the world:
    those are left out unless the user wants them."""
    first = hidden if sim.settings._exclude_current_positions_from_observation else 0
    return [sim.qpos[:, first:], sim.qvel if limit is None else clipped(sim.qvel, -limit, limit)]


def all_coordinates(sim: Simulations) -> list[Array]:
    return [sim.qpos, sim.qvel]


def control_cost(sim: Simulations, action: Array) -> Array:
    """In the precision of the actions, float32."""
    return sim.settings._ctrl_cost_weight * np.square(action).sum(-1)


def clipped(array: Array, low: float, high: float) -> Array:
    """`np.clip`, at a third of its cost for small arrays."""
    return np.minimum(np.maximum(array, low), high)


def squares(array: Array) -> Array:
    """The sum of squares of each row (N, ...)."""
    return np.square(array).reshape(len(array), -1).sum(-1)


def norm(vector: Array) -> Array:
    """Euclidean length of each row (N, k): the square root of the same dot product as `np.linalg.norm`."""
    return np.sqrt(np.vecdot(vector, vector))


def healthy_reward_v4(sim: Simulations) -> Array:
    """Paid in the last step too: an end counts as healthy if ill health ends the episode."""
    settings = sim.settings
    return (sim.healthy | settings._terminate_when_unhealthy) * settings._healthy_reward


def healthy_reward_v5(sim: Simulations) -> Array:
    return sim.healthy * sim.settings._healthy_reward


# Runners in a vertical plane: Hopper, Walker2d, HalfCheetah


def x_position(sim: Simulations) -> Array:
    return sim.qpos[:, :1]


def planar_place(sim: Simulations) -> Terms:
    return {"x_position": sim.qpos[:, 0].copy()}


def planar_place_and_height(sim: Simulations) -> Terms:
    return {**planar_place(sim), "z_distance_from_origin": sim.qpos[:, 1] - sim.settings.init_qpos[1]}


def upright(sim: Simulations) -> Array:
    """Height and angle of the torso within their ranges."""
    (min_z, max_z), (min_angle, max_angle) = sim.settings._healthy_z_range, sim.settings._healthy_angle_range
    z, angle = sim.qpos[:, 1], sim.qpos[:, 2]
    return (min_z < z) & (z < max_z) & (min_angle < angle) & (angle < max_angle)


def upright_and_in_range(sim: Simulations) -> Array:
    """Hopper's: the rest of the state within a range too."""
    low, high = sim.settings._healthy_state_range
    positions, velocities = sim.qpos[:, 2:], sim.qvel
    in_range = ((low < positions) & (positions < high)).all(-1) & ((low < velocities) & (velocities < high)).all(-1)
    return upright(sim) & in_range


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


# Free in the plane: Swimmer, Ant, Humanoid


def flat_place(of: Callable[[Simulations], Array], sim: Simulations) -> Terms:
    """Where it is in the plane, and how far from the origin."""
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


def mass_center(sim: Simulations) -> Array:
    return (np.einsum("b,nbj->nj", sim.mass, sim.xipos) / sim.mass.sum())[:, :2]


def humanoid_healthy(sim: Simulations) -> Array:
    low, high = sim.settings._healthy_z_range
    z = sim.qpos[:, 2]
    return (low < z) & (z < high)


def actuation_cost(sim: Simulations) -> Array:
    """Of the controls as the engine holds them, float64."""
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
    """Without the world, body 0, and the six coordinates of the root, which no actuator moves."""
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


def humanoid_place_v5(sim: Simulations) -> Terms:
    return {**flat_place(joint_xy, sim), **tendons(sim)}


def standup_place_v5(sim: Simulations) -> Terms:
    height = sim.qpos[:, 2] - sim.settings.init_qpos[2]
    xy = {"x_position": sim.qpos[:, 0].copy(), "y_position": sim.qpos[:, 1].copy()}
    return {**xy, "z_distance_from_origin": height, **tendons(sim)}


def standup_reward(
    weights: Callable[[Settings], tuple[float, float, tuple[float, float]]], sim: Simulations, action: Array
) -> tuple[Array, Terms]:
    """Height per time step, less what control and impacts cost, plus one."""
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


# Arms: Reacher, Pusher


def reach(sim: Simulations) -> Array:
    """From the target to the fingertip, (N, 3)."""
    return sim.body("fingertip") - sim.body("target")


def reacher_observe(size: int, sim: Simulations) -> list[Array]:
    theta = np.ascontiguousarray(sim.qpos[:, :2])
    return [np.cos(theta), np.sin(theta), sim.qpos[:, 2:], sim.qvel[:, :2], reach(sim)[:, :size]]


def reach_reward_v4(sim: Simulations, action: Array) -> tuple[Array, Terms]:
    """Of the distance before the step: so it is in v4."""
    distance, control = -norm(sim.before), -np.square(action).sum(-1)
    return distance + control, {"reward_dist": distance, "reward_ctrl": control}


def reach_reward_v5(sim: Simulations, action: Array) -> tuple[Array, Terms]:
    settings = sim.settings
    distance = -norm(sim.after) * settings._reward_dist_weight
    control = -np.square(action).sum(-1) * settings._reward_control_weight
    return distance + control, {"reward_dist": distance, "reward_ctrl": control}


def pusher_observe(sim: Simulations) -> list[Array]:
    return [sim.qpos[:, :7], sim.qvel[:, :7], sim.body("tips_arm"), sim.body("object"), sim.body("goal")]


def push_reward(sim: Simulations, action: Array) -> tuple[Array, Terms]:
    settings, body = sim.settings, sim.body
    near = -norm(body("object") - body("tips_arm")) * settings._reward_near_weight
    distance = -norm(body("object") - body("goal")) * settings._reward_dist_weight
    control = -np.square(action).sum(-1) * settings._reward_control_weight
    return distance + control + near, {"reward_dist": distance, "reward_ctrl": control, "reward_near": near}


# Pendulums on a cart


def pole_up(sim: Simulations) -> Array:
    finite = np.isfinite(sim.qpos).all(-1) & np.isfinite(sim.qvel).all(-1)
    return finite & ~(np.abs(sim.qpos[:, 1]) > 0.2)


def one(sim: Simulations, action: Array) -> tuple[Array, Terms]:
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
    """For the distance of the tip from its place, and for speed."""
    # `pow` of the C library, as for the scalars of Gymnasium: x**2 of an array is x * x, which is not the same.
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


part = functools.partial

TASKS: dict[type, MujocoTask] = {
    hopper_v4.HopperEnv: MujocoTask(
        part(coordinates, 1, 10), hop_reward_v4, upright_and_in_range, x_position, planar_place
    ),
    hopper_v5.HopperEnv: MujocoTask(
        part(coordinates, 1, 10), hop_reward_v5, upright_and_in_range, x_position, planar_place_and_height
    ),
    walker2d_v4.Walker2dEnv: MujocoTask(part(coordinates, 1, 10), hop_reward_v4, upright, x_position, planar_place),
    walker2d_v5.Walker2dEnv: MujocoTask(
        part(coordinates, 1, 10), hop_reward_v5, upright, x_position, planar_place_and_height
    ),
    half_cheetah_v4.HalfCheetahEnv: MujocoTask(
        part(coordinates, 1, None), part(run_reward, "reward_run"), track=x_position, place=planar_place
    ),
    half_cheetah_v5.HalfCheetahEnv: MujocoTask(
        part(coordinates, 1, None), part(run_reward, "reward_forward"), track=x_position, place=planar_place
    ),
    swimmer_v4.SwimmerEnv: MujocoTask(
        part(coordinates, 2, None), swim_reward_v4, track=joint_xy, place=part(flat_place, joint_xy)
    ),
    swimmer_v5.SwimmerEnv: MujocoTask(
        part(coordinates, 2, None), swim_reward_v5, track=joint_xy, place=part(flat_place, joint_xy)
    ),
    ant_v4.AntEnv: MujocoTask(
        ant_observe_v4,
        ant_reward_v4,
        ant_healthy,
        torso,
        part(flat_place, tracked_xy),
        contact_forces=lambda settings: settings._use_contact_forces,
    ),
    ant_v5.AntEnv: MujocoTask(
        ant_observe_v5, ant_reward_v5, ant_healthy, main_body, part(flat_place, joint_xy), reads_contacts
    ),
    humanoid_v4.HumanoidEnv: MujocoTask(
        humanoid_observe_v4,
        humanoid_reward_v4,
        humanoid_healthy,
        mass_center,
        part(flat_place, tracked_xy),
        reads_contacts,
    ),
    humanoid_v5.HumanoidEnv: MujocoTask(
        humanoid_observe_v5, humanoid_reward_v5, humanoid_healthy, mass_center, humanoid_place_v5, reads_contacts
    ),
    humanoidstandup_v4.HumanoidStandupEnv: MujocoTask(
        standup_observe_v4, part(standup_reward, standup_weights_v4), contact_forces=reads_contacts
    ),
    humanoidstandup_v5.HumanoidStandupEnv: MujocoTask(
        humanoid_observe_v5,
        part(standup_reward, standup_weights_v5),
        place=standup_place_v5,
        contact_forces=reads_contacts,
    ),
    reacher_v4.ReacherEnv: MujocoTask(part(reacher_observe, 3), reach_reward_v4, track=reach),
    reacher_v5.ReacherEnv: MujocoTask(part(reacher_observe, 2), reach_reward_v5, track=reach),
    pusher_v5.PusherEnv: MujocoTask(pusher_observe, push_reward),
    inverted_pendulum_v4.InvertedPendulumEnv: MujocoTask(all_coordinates, one, pole_up),
    inverted_pendulum_v5.InvertedPendulumEnv: MujocoTask(all_coordinates, pole_reward, pole_up),
    inverted_double_pendulum_v4.InvertedDoublePendulumEnv: MujocoTask(
        part(double_pole_observe, 3), double_pole_reward_v4, tip_up
    ),
    inverted_double_pendulum_v5.InvertedDoublePendulumEnv: MujocoTask(
        part(double_pole_observe, 1), double_pole_reward_v5, tip_up
    ),
}
"""By the class of Gymnasium's environment. Pusher-v4 needs a MuJoCo older than 3."""
