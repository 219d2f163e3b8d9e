"""Checks what an environment returns against what it declares; nothing is truncated, reshaped or reinterpreted.

Environments are often careless about types, so conversions that keep the numbers are accepted: from lists, from
integers of any type, and from float64 where float32 is declared (rounded). Values outside the bounds of a Box, which
many tasks return, are accepted too.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy import ndarray

from trpo_cli.envs.failure import ContractViolation

RESET, STEP = "(observation, info)", "(observation, reward, terminated, truncated, info)"
OLD = "; Gym did before version 0.26"
SHOWN = 60  # characters of a value


class Contract:
    """The contract of environment number `index`, whose observations are in `space`, a Box or a Discrete space.

    `check_reset` and `check_step` take what the environment returned and raise `ContractViolation` if it is invalid.
    Infos are not checked, since nothing reads them.
    """

    def __init__(self, space: spaces.Space[Any], index: int) -> None:
        self._space, self._index = space, index
        self._shape, self._dtype = space.shape, np.dtype(space.dtype)
        self._first, self._end, self._observation = 0, 0, self._array
        if isinstance(space, spaces.Discrete):
            self._first, self._end, self._observation = int(space.start), int(space.start + space.n), self._state

    def check_reset(self, returned: Any) -> Any:
        """The observation, with the declared shape and type."""
        if not isinstance(returned, tuple | list) or len(returned) != 2:
            old = "" if returned is None or isinstance(returned, tuple) else OLD
            raise self._violation(f"reset does not return {RESET}", describe_types(returned) + old)
        return self._observation(returned[0])

    def check_step(self, returned: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """The observation, reward, terminated and truncated, and an empty info."""
        try:
            observation, reward, terminated, truncated, _ = returned
        except (TypeError, ValueError):
            old = OLD if isinstance(returned, tuple) and len(returned) == 4 else ""
            raise self._violation(f"step does not return {STEP}", describe_types(returned) + old) from None
        return (
            self._observation(observation),
            reward if type(reward) is float else self._number(reward),
            terminated if type(terminated) is bool else self._flag("terminated", terminated),
            truncated if type(truncated) is bool else self._flag("truncated", truncated),
            {},
        )

    def explain_unpacking(self, error: BaseException) -> ContractViolation | None:
        """The violation behind an `error` of a Gymnasium wrapper that could not unpack what it was given; else None."""
        expected = re.search(r"values to unpack \(expected ([25])\b", str(error))
        if expected is None or not _is_in_wrapper(error):
            return None
        name = f"reset does not return {RESET}" if expected[1] == "2" else f"step does not return {STEP}"
        return self._violation(name, f"{error}{OLD if 'got 4' in str(error) else ''}")

    def _state(self, given: Any) -> Any:
        """An observation of a Discrete space."""
        state = given if type(given) in (int, np.int64) else int(self._array(given))
        if not self._first <= state < self._end:
            raise self._observation_violation(f"it is not in the range from {self._first} to {self._end - 1}", given)
        return state

    def _array(self, given: Any) -> Any:
        """`given` as an array of the declared shape and type."""
        if type(given) is ndarray and given.dtype is self._dtype and given.shape == self._shape:
            return given
        try:
            array = np.asarray(given)
        except Exception:  # for example rows of different lengths, or an array of another library
            raise self._observation_violation("NumPy cannot convert it to an array", given) from None
        if array.dtype.kind not in "biuf":
            raise self._observation_violation(
                "it is not a number" if array.ndim == 0 else "it holds something other than numbers", given
            )
        if array.shape != self._shape:
            raise self._observation_violation(f"its shape is {array.shape} instead of {self._shape}", given)
        with np.errstate(invalid="ignore", over="ignore"):
            fitted = array.astype(self._dtype, copy=False)
        if self._dtype.kind in "biu" and (fitted != array).any():
            raise self._observation_violation(f"it holds numbers that {self._dtype} cannot represent", given)
        return fitted

    def _number(self, given: Any) -> float:
        """`given` as a reward."""
        try:
            if _kind(given) in "biufO":
                return float(given)
        except (TypeError, ValueError, OverflowError):
            pass
        raise self._violation("reward is not one number", describe_value(given))

    def _flag(self, name: str, given: Any) -> bool:
        if _kind(given) in "biuf" and given in (0, 1):
            return bool(given)
        raise self._violation(f"{name} is neither true nor false", describe_value(given))

    def _observation_violation(self, reason: str, given: Any) -> ContractViolation:
        declared = f"declared: {self._space}; returned: {describe_value(given)}"
        return self._violation("observation does not match its space", f"{reason}\n{declared}")

    def _violation(self, what: str, more: str) -> ContractViolation:
        return ContractViolation(f": {what}", f" of environment {self._index}: {more}")


def describe_types(returned: Any) -> str:
    """The types in a returned tuple; a description of anything else."""
    if isinstance(returned, tuple):
        return f"({', '.join(type(value).__name__ for value in returned)})"
    return describe_value(returned)


def describe_value(value: Any) -> str:
    """The beginning of a value, and its type."""
    if value is None:
        return "None"
    text = " ".join(str(value).split())
    text = text if len(text) <= SHOWN else f"{text[: SHOWN - 4]} ..."
    if isinstance(value, ndarray):
        return f"{text} (array of {value.dtype}, shape {value.shape})"
    size = f" of {len(value)}" if isinstance(value, tuple | list) else ""
    return f"{text} ({type(value).__name__}{size})"


def _kind(value: Any) -> str:
    """NumPy's letter for the kind of a single value; a question mark for anything else."""
    try:
        array = np.asarray(value)
    except Exception:  # for example rows of different lengths
        return "?"
    return array.dtype.kind if array.ndim == 0 else "?"


def _is_in_wrapper(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__")).startswith("gymnasium.wrappers.")
