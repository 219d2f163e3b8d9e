"""Gymnasium's MuJoCo tasks, each defined by its observations, rewards and ends of episodes.

These are functions of `Simulations`, with arrays (N, ...) for N environments. Every operation has the order and
precision of Gymnasium's, so results agree to the last bit. Weights and ranges are read from `settings`, the Gymnasium
environment, and never repeated here. Units are metres, seconds and radians.
"""

from __future__ import annotations

from trpo_cli.envs.mujoco.simulations import MujocoTask
from trpo_cli.envs.mujoco.tasks import arms, free, humanoid, pendulums, planar

TASKS: dict[type, MujocoTask] = {
    **planar.TASKS,
    **free.TASKS,
    **humanoid.TASKS,
    **arms.TASKS,
    **pendulums.TASKS,
}
"""Tasks by the class of Gymnasium's environment. Pusher-v4 is missing, since it needs a MuJoCo older than 3."""
