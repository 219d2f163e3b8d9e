"""What an environment returns, held to what it declares: nothing is cut off, reshaped or taken for something else.

Whatever keeps every number passes, for environments are often careless about types: lists, whole numbers of any type,
a float64 where float32 is declared (it is rounded). So does what lies outside the bounds of a Box, as in many tasks.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy import ndarray

from trpo_cli.envs.failure import Misfit

RESET, STEP = "(observation, info)", "(observation, reward, terminated, truncated, info)"
OLD = "; Gym before version 0.26 did"
SHOWN = 60  # characters of a value


class Declared:
    """Environment number `index`, whose observations are in `space`, a Box or a Discrete one.

    `reset` and `step` take what the environment returned, and raise a `Misfit` if it does not fit. Infos are not looked
    at, since nobody reads them.
    """

    def __init__(self, space: spaces.Space[Any], index: int) -> None:
        self._space, self._index = space, index
        self._shape, self._dtype = space.shape, np.dtype(space.dtype)
        self._first, self._end, self._observation = 0, 0, self._array
        if isinstance(space, spaces.Discrete):
            self._first, self._end, self._observation = int(space.start), int(space.start + space.n), self._state

    def reset(self, returned: Any) -> Any:
        """The observation, as the space has it."""
        if not isinstance(returned, tuple | list) or len(returned) != 2:
            old = "" if returned is None or isinstance(returned, tuple) else OLD
            raise self._misfit(f"reset does not return {RESET}", kinds(returned) + old)
        return self._observation(returned[0])

    def step(self, returned: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Observation, reward, terminated, truncated, and an empty info."""
        try:
            observation, reward, terminated, truncated, _ = returned
        except (TypeError, ValueError):
            old = OLD if isinstance(returned, tuple) and len(returned) == 4 else ""
            raise self._misfit(f"step does not return {STEP}", kinds(returned) + old) from None
        return (
            self._observation(observation),
            reward if type(reward) is float else self._number(reward),
            terminated if type(terminated) is bool else self._truth("terminated", terminated),
            truncated if type(truncated) is bool else self._truth("truncated", truncated),
            {},
        )

    def unpacked(self, error: BaseException) -> Misfit | None:
        """What it means if a wrapper of Gymnasium's failed to take apart what the environment returned to it."""
        expected = re.search(r"values to unpack \(expected ([25])\b", str(error))
        if expected is None or not _in_wrapper(error):
            return None
        name = f"reset does not return {RESET}" if expected[1] == "2" else f"step does not return {STEP}"
        return self._misfit(name, f"{error}{OLD if 'got 4' in str(error) else ''}")

    def _state(self, given: Any) -> Any:
        """An observation of a Discrete space."""
        state = given if type(given) in (int, np.int64) else int(self._array(given))
        if not self._first <= state < self._end:
            raise self._unfit(f"it is not from {self._first} to {self._end - 1}", given)
        return state

    def _array(self, given: Any) -> Any:
        """An array of the declared shape and type, with the same numbers."""
        if type(given) is ndarray and given.dtype is self._dtype and given.shape == self._shape:
            return given
        try:
            array = np.asarray(given)
        except Exception:  # rows of different lengths, or an array of another library's
            raise self._unfit("NumPy makes no array of it", given) from None
        if array.dtype.kind not in "biuf":
            raise self._unfit("it is no number" if array.ndim == 0 else "it has other things than numbers", given)
        if array.shape != self._shape:
            raise self._unfit(f"its shape is {array.shape} and not {self._shape}", given)
        with np.errstate(invalid="ignore", over="ignore"):
            fitted = array.astype(self._dtype, copy=False)
        if self._dtype.kind in "biu" and (fitted != array).any():
            raise self._unfit(f"it has numbers that {self._dtype} cannot hold", given)
        return fitted

    def _number(self, given: Any) -> float:
        """A reward."""
        try:
            if _kind(given) in "biufO":
                return float(given)
        except (TypeError, ValueError, OverflowError):
            pass
        raise self._misfit("reward is not one number", described(given))

    def _truth(self, name: str, given: Any) -> bool:
        if _kind(given) in "biuf" and given in (0, 1):
            return bool(given)
        raise self._misfit(f"{name} is neither true nor false", described(given))

    def _unfit(self, reason: str, given: Any) -> Misfit:
        declared = f"declared: {self._space}; returned: {described(given)}"
        return self._misfit("observation does not fit its space", f"{reason}\n{declared}")

    def _misfit(self, what: str, more: str) -> Misfit:
        return Misfit(f": {what}", f" of environment {self._index}: {more}")


def kinds(returned: Any) -> str:
    """What a method returned instead of the tuple that it should."""
    if isinstance(returned, tuple):
        return f"({', '.join(type(value).__name__ for value in returned)})"
    return described(returned)


def described(value: Any) -> str:
    """How it begins, and of what kind it is."""
    if value is None:
        return "None"
    text = " ".join(str(value).split())
    text = text if len(text) <= SHOWN else f"{text[: SHOWN - 4]} ..."
    if isinstance(value, ndarray):
        return f"{text} (array of {value.dtype}, shape {value.shape})"
    size = f" of {len(value)}" if isinstance(value, tuple | list) else ""
    return f"{text} ({type(value).__name__}{size})"


def _kind(value: Any) -> str:
    """The kind of a single value, by NumPy's letters; a question mark for what is none."""
    try:
        array = np.asarray(value)
    except Exception:  # rows of different lengths
        return "?"
    return array.dtype.kind if array.ndim == 0 else "?"


def _in_wrapper(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__")).startswith("gymnasium.wrappers.")
