"""Checks an observation, or one entry of it, against its space; nothing is truncated, reshaped or reinterpreted.

Environments are often careless about types, so conversions that keep the numbers are accepted: from lists, from
integers of any type, and from float64 where float32 is declared (rounded). Values outside the bounds of a Box, which
many tasks return, are accepted too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy import ndarray

from trpo_cli.envs.failure import ContractViolation

SHOWN = 60  # characters of a value


class Leaf:
    """A Box, Discrete, MultiDiscrete or MultiBinary space of environment number `index`.

    `check` takes what the environment returned, and returns it with the declared shape and type. It raises
    `ContractViolation` if it is not in the space. `name` is that of the entry, or empty for a whole observation.
    Without an index, a user has given it. With `rows`, it is a batch of so many.
    """

    def __init__(self, space: spaces.Space[Any], index: int | None, name: str = "", rows: int | None = None) -> None:
        self._space, self._index, self._name = space, index, name
        self._shape, self._dtype = space.shape, np.dtype(space.dtype)
        if rows is not None:
            self._shape = (rows, *(space.shape or ()))
        self._first: Any = 0
        self._end: Any = 2
        self.check = self._array
        match space:
            case spaces.Discrete():
                self._first, self._end = int(space.start), int(space.start + space.n)
                self.check = self._state if rows is None else self._choices
            case spaces.MultiDiscrete():
                self._first, self.check = space.start.astype(np.int64), self._choices
                self._end = self._first + space.nvec.astype(np.int64)
            case spaces.MultiBinary():
                self.check = self._choices

    def _state(self, given: Any) -> Any:
        state = given if type(given) in (int, np.int64) else int(self._array(given))
        if not self._first <= state < self._end:
            raise self._violation(f"it is not in the range from {self._first} to {self._end - 1}", given)
        return state

    def _choices(self, given: Any) -> Any:
        array = self._array(given)
        inside = (self._first <= array) & (array < self._end)
        if not inside.all():
            raise self._violation(f"it holds numbers outside their ranges, such as {array[~inside][0]}", given)
        return array

    def _array(self, given: Any) -> Any:
        if type(given) is ndarray and given.dtype is self._dtype and given.shape == self._shape:
            return given
        try:
            array = np.asarray(given)
        except Exception:  # for example rows of different lengths, or an array of another library
            raise self._violation("NumPy cannot convert it to an array", given) from None
        if array.dtype.kind not in "biuf":
            raise self._violation(
                "it is not a number" if array.ndim == 0 else "it holds something other than numbers", given
            )
        if array.shape != self._shape:
            raise self._violation(f"its shape is {array.shape} instead of {self._shape}", given)
        with np.errstate(invalid="ignore", over="ignore"):
            fitted = array.astype(self._dtype, copy=False)
        if self._dtype.kind in "biu" and (fitted != array).any():
            raise self._violation(f"it holds numbers that {self._dtype} cannot represent", given)
        return fitted

    def _violation(self, reason: str, given: Any) -> ContractViolation:
        return misfit(self._space, self._index, self._name, reason, given)


def misfit(space: spaces.Space[Any], index: int | None, name: str, reason: str, given: Any) -> ContractViolation:
    """The violation for an observation, or its entry called `name`, that is not in its space."""
    what = f"entry '{name}' of the observation" if name else "observation"
    whose, verb = ("", "given") if index is None else (f" of environment {index}", "returned")
    declared = f"declared: {space}; {verb}: {describe_value(given)}"
    return ContractViolation(f": {what} does not match its space", f"{whose}: {reason}\n{declared}")


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
