"""From what an environment shows to what it is to do: encode, normalise, act, decode."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from trpo_cli.envs.environments import LARGEST
from trpo_cli.errors import UserError
from trpo_cli.play.trained import Trained

Array = NDArray[Any]


class Controller:
    """A trained policy with all that surrounds it; it takes raw observations and returns actions for `env.step`."""

    def __init__(self, trained: Trained) -> None:
        self.trained = trained
        self.observation_space, self.action_space = trained.spaces
        _, self._encode = trained.task.make_encoder(self.observation_space)
        _, self._decode = trained.task.make_decoder(self.action_space)
        self._act = trained.policy.actor()

    def read(self, observation: Array) -> Array:
        """What the policy sees (N, O) of raw observations (N, ...). Raises `UserError` if one is not finite."""
        encoded = self._encode(observation)
        if encoded.dtype.kind == "f" and not (finite := np.abs(encoded) <= LARGEST).all():
            row = int(np.flatnonzero(~finite.reshape(len(encoded), -1).all(1))[0])
            raise UserError(f"observation: is not finite: {observation[row]}")
        return self.trained.normalizer(encoded)

    def __call__(self, observation: Array, memory: Array, noise: Array | None) -> tuple[Array, Array]:
        """Raw observations (N, ...), memory (N, M) and noise (N, K) -> actions (N, ...) and the memory after them.

        Without noise the actions are the likeliest ones.
        """
        action, memory = self._act(self.read(observation), memory, noise)
        return self._decode(action), memory


def as_batch(space: spaces.Space[Any], given: Any) -> tuple[Array, bool]:
    """Return observations as an array (N, ...) of the space's dtype, and whether `given` is a single one.

    Raises `UserError` if it is neither an observation of the space nor a batch of them.
    """
    shape, dtype = space.shape or (), np.dtype(space.dtype)
    try:
        array = np.asarray(given)
    except ValueError as error:  # rows of different lengths
        raise UserError(f"observation: NumPy cannot convert it to an array: {error}") from error
    if array.dtype.kind not in "biuf":
        raise UserError(f"observation: got {type(given).__name__}, which holds no numbers; declared: {space}")
    if array.shape != shape and (array.ndim != len(shape) + 1 or array.shape[1:] != shape):
        batch = f"({', '.join(map(str, ('N', *shape)))}{'' if shape else ','})"
        raise UserError(f"observation: has shape {array.shape}; one has {shape}, and a batch of N has {batch}")
    with np.errstate(invalid="ignore", over="ignore"):
        fitted = array.astype(dtype, copy=False)
    if dtype.kind in "biu" and (fitted != array).any():
        raise UserError(f"observation: holds numbers that {dtype} cannot represent; declared: {space}")
    first, last = (space.start, space.start + space.n - 1) if isinstance(space, spaces.Discrete) else (0, 0)
    if isinstance(space, spaces.Discrete) and not ((first <= fitted) & (fitted <= last)).all():
        raise UserError(f"observation: got {given}; a state is a number from {first} to {last}")
    return (fitted[None], True) if array.shape == shape else (fitted, False)
