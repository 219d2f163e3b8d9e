"""Between Gymnasium's spaces and the arrays that policies read and write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from trpo_cli.data import ObservationSpec
from trpo_cli.envs.joining import join
from trpo_cli.errors import ConfigError
from trpo_cli.models.distributions import Categorical, DiagonalGaussian, Distribution

Encoder = Callable[[NDArray[Any]], NDArray[Any]]
FAR = 5.0  # the factor by which bounds of actions may differ from 1 without a warning
Decoder = Callable[[NDArray[Any]], NDArray[Any]]


def observation_encoder(space: spaces.Space[Any]) -> tuple[ObservationSpec, Encoder]:
    """Return what policies read from this space, and the function (N, ...) -> (N, O) that encodes it.

    A Box keeps its shape, and its dtype if that is `uint8`; other numbers become float64. A Discrete state becomes a
    one-hot vector. Observations of other spaces are joined before. Raises `ConfigError` if they cannot be.
    """
    match join(space):
        case spaces.Box() as box:
            dtype = np.dtype(np.uint8 if box.dtype == np.uint8 else np.float64)
            spec = ObservationSpec(box.shape or (1,), dtype, entries=getattr(box, "entries", ()))
            return spec, lambda batch: batch.reshape(-1, *spec.shape).astype(dtype, copy=False)
        case spaces.Discrete() as states:
            one_hot, start = np.eye(int(states.n)), int(states.start)
            return ObservationSpec((int(states.n),), one_hot.dtype, int(states.n)), lambda batch: one_hot[batch - start]


def action_decoder(space: spaces.Space[Any], env_id: str) -> tuple[Distribution, Decoder]:
    """Return the policy's distribution for a space, and the function from its actions (N, A) to those of the space.

    Only here are Box actions clipped to their bounds. Raises `ConfigError` for an unsupported space.
    """
    match space:
        case spaces.Box() if np.issubdtype(space.dtype, np.floating) and 0 not in space.shape:
            low, high, shape, dtype = space.low, space.high, space.shape, space.dtype
            gaussian = DiagonalGaussian(int(np.prod(shape)))
            return gaussian, lambda a: np.maximum(np.minimum(a.reshape(-1, *shape), high), low).astype(
                dtype, copy=False
            )
        case spaces.Discrete():
            return Categorical([int(space.n)]), lambda a: a[:, 0] + space.start
        case spaces.MultiDiscrete():
            offset, shape = space.start, space.shape
            return Categorical(space.nvec.flatten().tolist()), lambda a: (a.reshape(len(a), *shape) + offset).astype(
                space.dtype
            )
        case spaces.MultiBinary():
            shape = space.shape
            return Categorical([2] * int(np.prod(shape))), lambda a: a.reshape(len(a), *shape).astype(space.dtype)
        case _:
            raise ConfigError(
                f"env.id: the actions of {env_id} are {_name(space)}; supported are Box (of one float or more), "
                "Discrete, MultiDiscrete and MultiBinary."
            )


def warn_of_scale(space: spaces.Space[Any], env_id: str) -> str | None:
    """Return a warning if the finite bounds of some action are far from -1 and 1, or None."""
    if not isinstance(space, spaces.Box):
        return None
    largest = np.maximum(np.abs(space.low), np.abs(space.high)).flatten()
    odd = (largest > FAR) | ((largest > 0) & (largest < 1 / FAR))
    if not (odd := odd & np.isfinite(largest)).any():
        return None
    low, high = space.low.flatten()[odd][0], space.high.flatten()[odd][0]
    return (
        f"actions of {env_id} reach from {low:g} to {high:g}, and a policy begins near 0 with a standard deviation of "
        "about 1, so it may learn nothing: register it with gymnasium.wrappers.RescaleAction(env, -1, 1) around it"
    )


def _name(space: spaces.Space[Any]) -> str:
    text = str(space)
    return text if len(text) <= 80 else f"{type(space).__name__}(...)"
