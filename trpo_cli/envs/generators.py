"""Random number generators of NumPy, Python and Gymnasium's spaces as plain data."""

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
PYTHON = "python"  # stands for the algorithm in the state of a `random.Random`


def generator_state(generator: Any) -> dict[str, Any]:
    """The state of a generator of one of `KINDS`."""
    match generator:
        case random.Random():
            return {"bit_generator": PYTHON, "state": generator.getstate()}
        case np.random.RandomState():
            state: Any = generator.get_state(legacy=False)
        case _:
            state = generator.bit_generator.state
    return state  # type: ignore[no-any-return]


def restore_generator(state: dict[str, Any], generator: Any) -> Any:
    """Return `generator` in this state, or a new one if it is None or of another kind or algorithm.

    Raises `CheckpointError` if the state is invalid.
    """
    try:
        if state["bit_generator"] == PYTHON:
            generator = generator if type(generator) is random.Random else random.Random()
            generator.setstate(state["state"])
            return generator
        algorithm = ALGORITHMS[state["bit_generator"]]
        check_position(state)
        if "gauss" in state:  # the legacy interface
            generator = generator if type(generator) is np.random.RandomState else np.random.RandomState()
            generator.set_state(state)
            return generator
        if type(generator) is not np.random.Generator or type(generator.bit_generator) is not algorithm:
            generator = np.random.Generator(algorithm())
        generator.bit_generator.state = state
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"the state of a random generator is invalid: {error}") from error
    return generator


def reseed_generator(generator: Any, sequence: np.random.SeedSequence) -> None:
    """Seed a generator; a `numpy.random.Generator` is seeded as `numpy.random.default_rng(sequence)` does it."""
    match generator:
        case random.Random():
            generator.seed(int(sequence.generate_state(1)[0]))
        case np.random.RandomState():
            generator.seed(sequence.generate_state(4))
        case _:
            generator.bit_generator.state = type(generator.bit_generator)(sequence).state


def space_state(space: Space[Any]) -> list[Any]:
    """The states of the generators of `space` and its subspaces; None for those that have not been used."""
    drawn = (part._np_random for part in subspaces(space))
    return [None if generator is None else generator.bit_generator.state for generator in drawn]


def restore_space(space: Space[Any], states: list[Any] | None = None) -> None:
    """Restore what `space_state` returned to a space made in the same way; None makes all generators unused."""
    inner = list(subspaces(space))
    part: Any
    for part, state in zip(inner, states or [None] * len(inner), strict=True):
        part._np_random = None if state is None else restore_generator(state, part._np_random)


def subspaces(space: Space[Any]) -> Iterator[Space[Any]]:
    """Yield the space and all spaces in it, each of which has its own generator."""
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
        yield from subspaces(part)
