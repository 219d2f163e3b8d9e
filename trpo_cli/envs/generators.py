"""NumPy's generators of random numbers as plain data, those that the spaces of an environment draw from included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from trpo_cli.errors import CheckpointError
from trpo_cli.seeding import check_position

ALGORITHMS: dict[str, type[np.random.BitGenerator]] = {
    kind.__name__: kind
    for kind in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)
}


def restored(state: dict[str, Any], generator: np.random.Generator | None) -> np.random.Generator:
    """`generator`, in this `bit_generator.state`; a new one if there was none, or one of another algorithm.

    Raises `CheckpointError` if it is no such state.
    """
    try:
        algorithm = ALGORITHMS[state["bit_generator"]]
        check_position(state)
        if generator is None or type(generator.bit_generator) is not algorithm:
            generator = np.random.Generator(algorithm())
        generator.bit_generator.state = state
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"the state of a random generator does not fit: {error}") from error
    return generator


def of_space(space: Space[Any]) -> list[Any]:
    """The state of the generator of `space`, and of every space in it; None where nothing was drawn yet."""
    drawn = (part._np_random for part in parts(space))
    return [None if generator is None else generator.bit_generator.state for generator in drawn]


def restore_space(space: Space[Any], states: list[Any] | None = None) -> None:
    """Put what `of_space` gave into a space made alike; None: nothing was drawn yet."""
    inner = list(parts(space))
    part: Any
    for part, state in zip(inner, states or [None] * len(inner), strict=True):
        part._np_random = None if state is None else restored(state, part._np_random)


def parts(space: Space[Any]) -> Iterator[Space[Any]]:
    """The space and all spaces in it, each of which has a generator of its own."""
    yield space
    inner: list[Any] = []
    match space:
        case spaces.Dict():
            inner = list(space.spaces.values())
        case spaces.Tuple() | spaces.OneOf():
            inner = list(space.spaces)
        case spaces.Sequence():
            inner = [space.feature_space]
        case spaces.Graph():
            inner = [part for part in (space.node_space, space.edge_space) if part is not None]
    for part in inner:
        yield from parts(part)
