"""What a MuJoCo task is made of, and what several of them share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

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
