"""What a user gives as observations: one of an environment, or a batch of them; shapes tell which it is."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, iterate
from numpy.typing import NDArray

from trpo_cli.envs.failure import ContractViolation
from trpo_cli.envs.joining import Joined, Joining, iterate_leaves, iterate_values, own_space
from trpo_cli.envs.leaf import misfit
from trpo_cli.errors import UserError

Array = NDArray[Any]


class Given:
    """Observations as an array (N, ...) of the space's dtype, with composite ones joined, and whether it is only one.

    Raises `UserError` for what is neither an observation nor a batch as vector environments of Gymnasium give it.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.space = space
        self._join = Joining(space, None) if isinstance(space, Joined) else None

    def __call__(self, given: Any) -> tuple[Array, bool]:
        if self._join is None:
            return as_batch(self.space, given)
        try:
            count = _count(own_space(self.space), given)
            rows = [given] if count is None else _split(own_space(self.space), given, count)
            joined = np.array([self._join(row) for row in rows], dtype=self.space.dtype)
        except ContractViolation as violation:
            raise UserError(f"{violation.summary.removeprefix(': ')}{violation.details}") from violation
        return joined.reshape(len(rows), *(self.space.shape or ())), count is None


def _split(space: spaces.Space[Any], batch: Any, count: int) -> list[Any]:
    return list(iterate(batch_space(space, count), batch)) if count else []


def _count(space: spaces.Space[Any], given: Any) -> int | None:
    """Return of how many observations this is a batch; None for a single one."""
    counts: dict[str, int | None] = {}
    for (name, leaf), value in zip(iterate_leaves(space), iterate_values(space, given), strict=True):
        counts[name] = _count_in_entry(leaf, name, value)
    first, *others = counts.items()
    for name, count in others:
        if count != first[1]:
            one, other = ("a single value" if n is None else f"a batch of {n}" for n in (first[1], count))
            raise UserError(f"observation: entry '{first[0]}' is {one}, but entry '{name}' is {other}")
    return first[1]


def _count_in_entry(space: spaces.Space[Any], name: str, value: Any) -> int | None:
    shape = space.shape or ()
    try:
        given = np.shape(value)
    except ValueError:
        raise misfit(space, None, name, "NumPy cannot convert it to an array", value) from None
    if given != shape and given[1:] != shape:
        raise misfit(space, None, name, f"it {describe_shapes(given, shape)}", value)
    return None if given == shape else given[0]


def as_batch(space: spaces.Space[Any], given: Any) -> tuple[Array, bool]:
    """Do what `Given` does for a Box or Discrete space."""
    shape, dtype = space.shape or (), np.dtype(space.dtype)
    try:
        array = np.asarray(given)
    except ValueError as error:  # rows of different lengths
        raise UserError(f"observation: NumPy cannot convert it to an array: {error}") from error
    if array.dtype.kind not in "biuf":
        raise UserError(f"observation: got {type(given).__name__}, which holds no numbers; declared: {space}")
    if array.shape != shape and (array.ndim != len(shape) + 1 or array.shape[1:] != shape):
        raise UserError(f"observation: {describe_shapes(array.shape, shape)}")
    with np.errstate(invalid="ignore", over="ignore"):
        fitted = array.astype(dtype, copy=False)
    if dtype.kind in "biu" and (fitted != array).any():
        raise UserError(f"observation: holds numbers that {dtype} cannot represent; declared: {space}")
    first, last = (space.start, space.start + space.n - 1) if isinstance(space, spaces.Discrete) else (0, 0)
    if isinstance(space, spaces.Discrete) and not ((first <= fitted) & (fitted <= last)).all():
        raise UserError(f"observation: got {given}; a state is a number from {first} to {last}")
    return (fitted[None], True) if array.shape == shape else (fitted, False)


def describe_shapes(given: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """Say which shape would fit."""
    batch = f"({', '.join(map(str, ('N', *shape)))}{'' if shape else ','})"
    return f"has shape {given}; one has {shape}, and a batch of N has {batch}"
