"""Generators of random numbers, NumPy's and Python's, as plain data; also those that spaces draw from."""

from __future__ import annotations

import random
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


KINDS: tuple[type[Any], ...] = (np.random.Generator, np.random.RandomState, random.Random)
PYTHON = "python"  # what stands for the name of an algorithm in the state of a `random.Random`


def state_of(generator: Any) -> dict[str, Any]:
    """The state of a generator, of one of `KINDS`."""
    match generator:
        case random.Random():
            return {"bit_generator": PYTHON, "state": generator.getstate()}
        case np.random.RandomState():
            state: Any = generator.get_state(legacy=False)
        case _:
            state = generator.bit_generator.state
    return state  # type: ignore[no-any-return]


def restored(state: dict[str, Any], generator: Any) -> Any:
    """`generator`, in this state; a new one if there was none, or one of another kind or algorithm.

    Raises `CheckpointError` if it is no such state.
    """
    try:
        if state["bit_generator"] == PYTHON:
            generator = generator if type(generator) is random.Random else random.Random()
            generator.setstate(state["state"])
            return generator
        algorithm = ALGORITHMS[state["bit_generator"]]
        check_position(state)
        if "gauss" in state:  # of the old interface
            generator = generator if type(generator) is np.random.RandomState else np.random.RandomState()
            generator.set_state(state)
            return generator
        if type(generator) is not np.random.Generator or type(generator.bit_generator) is not algorithm:
            generator = np.random.Generator(algorithm())
        generator.bit_generator.state = state
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"the state of a random generator does not fit: {error}") from error
    return generator


def start_anew(generator: Any, sequence: np.random.SeedSequence) -> None:
    """Seed a generator, one of NumPy's new ones as `numpy.random.default_rng(sequence)` does."""
    match generator:
        case random.Random():
            generator.seed(int(sequence.generate_state(1)[0]))
        case np.random.RandomState():
            generator.seed(sequence.generate_state(4))
        case _:
            generator.bit_generator.state = type(generator.bit_generator)(sequence).state


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
