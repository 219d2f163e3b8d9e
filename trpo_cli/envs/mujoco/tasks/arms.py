"""Arms: Reacher, Pusher."""

from __future__ import annotations

from functools import partial

import numpy as np
from gymnasium.envs.mujoco import pusher_v5, reacher_v4, reacher_v5

from trpo_cli.envs.mujoco.simulations import Array, MujocoTask, Simulations, Terms
from trpo_cli.envs.mujoco.tasks.common import norm


def reach(sim: Simulations) -> Array:
    """The vector (N, 3) from the target to the fingertip."""
    return sim.body("fingertip") - sim.body("target")


def reacher_observe(size: int, sim: Simulations) -> list[Array]:
    theta = np.ascontiguousarray(sim.qpos[:, :2])
    return [np.cos(theta), np.sin(theta), sim.qpos[:, 2:], sim.qvel[:, :2], reach(sim)[:, :size]]


def reach_reward_v4(sim: Simulations, action: Array) -> tuple[Array, Terms]:
    """Rewards the distance before the step, as v4 does."""
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


TASKS: dict[type, MujocoTask] = {
    reacher_v4.ReacherEnv: MujocoTask(partial(reacher_observe, 3), reach_reward_v4, track=reach),
    reacher_v5.ReacherEnv: MujocoTask(partial(reacher_observe, 2), reach_reward_v5, track=reach),
    pusher_v5.PusherEnv: MujocoTask(pusher_observe, push_reward),
}
