"""Gymnasium's MuJoCo tasks, each as what is observed, what is rewarded and when it ends.

Functions of `Simulations`, with arrays (N, ...) where Gymnasium has one environment. The order and the precision of
every operation are Gymnasium's, so that results agree to the last bit. Weights and ranges are attributes of `settings`,
the Gymnasium environment: none is repeated here. Metres, seconds, radians.
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
"""By the class of Gymnasium's environment. Pusher-v4 needs a MuJoCo older than 3."""
