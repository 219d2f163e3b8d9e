"""Composite observations, joined: one vector, in which each entry has a stretch of its own.

From here on nothing else has to know that there were several. A Box entry lies in the vector as its numbers, a Discrete
one one-hot, a MultiDiscrete one as one-hot stretches side by side, and a MultiBinary one as zeros and ones. Entries
follow each other in the order of the space, as in `gymnasium.spaces.flatten`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from trpo_cli.data import Entry
from trpo_cli.envs.leaf import Leaf, misfit
from trpo_cli.errors import ConfigError
from trpo_cli.memory import refuse_oversized_observation

DEEPEST = 50  # levels of Dict and Tuple
Vector = NDArray[Any]
Fill = Callable[[Any, Vector], None]
"""Checks an entry, and writes it into its stretch of a vector of zeros."""


class Joined(spaces.Box):
    """The vectors that observations of the composite space `source` become. They have no bounds.

    They are `uint8` if all numbers are, as those of images, and float64 otherwise.
    """

    def __init__(self, source: spaces.Space[Any], entries: tuple[Entry, ...]) -> None:
        self.source, self.entries = source, entries
        numeric = {entry.dtype for entry in entries if entry.is_numeric}
        low, high, dtype = (0, 255, np.uint8) if numeric == {np.dtype(np.uint8)} else (-np.inf, np.inf, np.float64)
        super().__init__(low, high, (sum(entry.size for entry in entries),), dtype)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Joined) and self.source == other.source

    def __repr__(self) -> str:
        return repr(self.source)


class Joining:
    """Joins what environment number `index` returns, or a user gives, after checking it.

    Raises `ContractViolation` as `Leaf` does.
    """

    def __init__(self, space: Joined, index: int | None) -> None:
        self._shape, self._dtype, self._index = space.shape, space.dtype, index
        self._entries = iter(space.entries)
        self._fill = self._filler(space.source, "")

    def __call__(self, given: Any) -> Vector:
        vector: Vector = np.zeros(self._shape, self._dtype)
        self._fill(given, vector)
        return vector

    def _filler(self, space: spaces.Space[Any], name: str) -> Fill:
        match space:
            case spaces.Dict():
                return self._fill_dict(space, name)
            case spaces.Tuple():
                return self._fill_tuple(space, name)
        check, place = Leaf(space, self._index, name).check, next(self._entries).place

        def fill_discrete(given: Any, vector: Vector) -> None:
            vector[origin + check(given)] = 1

        def fill_choices(given: Any, vector: Vector) -> None:
            vector[origins + check(given).reshape(-1)] = 1

        def fill_numbers(given: Any, vector: Vector) -> None:
            vector[place] = check(given).reshape(-1)

        match space:
            case spaces.Discrete():
                origin = place.start - int(space.start)
                return fill_discrete
            case spaces.MultiDiscrete():
                sizes, start = space.nvec.reshape(-1).astype(np.int64), space.start.reshape(-1).astype(np.int64)
                origins = place.start + np.cumsum(sizes) - sizes - start
                return fill_choices
        return fill_numbers

    def _fill_dict(self, space: spaces.Dict, name: str) -> Fill:
        parts = [(key, self._filler(part, _below(name, key))) for key, part in space.items()]

        def fill(given: Any, vector: Vector) -> None:
            _check_dict(space, self._index, name, given)
            for key, part in parts:
                part(given[key], vector)

        return fill

    def _fill_tuple(self, space: spaces.Tuple[Any], name: str) -> Fill:
        parts = [self._filler(part, _below(name, place)) for place, part in enumerate(space)]

        def fill(given: Any, vector: Vector) -> None:
            _check_tuple(space, self._index, name, given)
            for part, value in zip(parts, given, strict=True):
                part(value, vector)

        return fill


def own_space(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """Return the space of what the environment itself gives, where composite observations are joined in `space`."""
    return space.source if isinstance(space, Joined) else space


def join(space: Any) -> spaces.Box | spaces.Discrete:
    """Return a Box or Discrete space as it is, and for any other the `Joined` space.

    Raises `ConfigError`, naming the entry, for a space whose observations are not a fixed number of numbers.
    """
    entries, start = [], 0
    for name, leaf in iterate_leaves(space):
        match leaf:
            case spaces.Box() if 0 not in leaf.shape:
                entry = Entry(name, leaf.shape, start, np.dtype(leaf.dtype), is_numeric=True)
            case spaces.Discrete():
                entry = Entry(name, (int(leaf.n),), start, np.dtype(leaf.dtype), is_numeric=False)
            case spaces.MultiDiscrete():
                entry = Entry(name, (sum(leaf.nvec.flatten().tolist()),), start, np.dtype(leaf.dtype), is_numeric=False)
            case spaces.MultiBinary():
                entry = Entry(name, leaf.shape, start, np.dtype(leaf.dtype), is_numeric=False)
            case _:
                raise _refusal(leaf, name)
        entries.append(entry)
        start += entry.size
        refuse_oversized_observation(f"env.id: {f'with entry {name!r} ' if name else ''}the observations have", start)
    if not entries:
        raise _refusal(space, "")
    return space if isinstance(space, spaces.Box | spaces.Discrete) else Joined(space, tuple(entries))


def iterate_leaves(space: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield the name and the space of each entry, in the order in which they are joined.

    Raises `ConfigError` if they are nested too deeply.
    """
    if depth > DEEPEST:
        raise ConfigError(f"env.id: the observations are nested more than {DEEPEST} levels deep")
    match space:
        case spaces.Dict():
            parts: Any = space.items()
        case spaces.Tuple():
            parts = enumerate(space)
        case _:
            yield name, space
            return
    for key, part in parts:
        yield from iterate_leaves(part, _below(name, key), depth + 1)


def iterate_values(space: Any, given: Any, name: str = "") -> Iterator[Any]:
    """Yield what a user gives for each entry. Raises `ContractViolation` if one is missing or too many."""
    match space:
        case spaces.Dict():
            _check_dict(space, None, name, given)
            parts: Any = space.items()
        case spaces.Tuple():
            _check_tuple(space, None, name, given)
            parts = enumerate(space)
        case _:
            yield given
            return
    for key, part in parts:
        yield from iterate_values(part, given[key], _below(name, key))


def _check_dict(space: spaces.Dict, index: int | None, name: str, given: Any) -> None:
    if not isinstance(given, Mapping):
        raise misfit(space, index, name, "it is not a dictionary", given)
    if given.keys() != space.keys():
        raise misfit(space, index, name, _compare_keys(given, space), list(given))


def _check_tuple(space: spaces.Tuple[Any], index: int | None, name: str, given: Any) -> None:
    if not _is_sequence(given) or len(given) != len(space):
        raise misfit(space, index, name, f"it is not a tuple of {len(space)}", given)


def _below(name: str, key: Any) -> str:
    return f"{name}.{_quote(key)}" if name else _quote(key)


def _quote(key: Any) -> str:
    """A key as it is, or in quotes if it has a dot, which separates keys, quotes, or what a terminal may not show."""
    text = str(key)
    return text if text and text.isprintable() and not {*text} & {*".'\""} else repr(text)


def _is_sequence(given: Any) -> bool:
    return isinstance(given, tuple | list) or (isinstance(given, np.ndarray) and given.ndim > 0)


def _compare_keys(given: Mapping[Any, Any], space: spaces.Dict) -> str:
    missing = [_quote(key) for key in space if key not in given]
    unknown = [_quote(key) for key in given if key not in space.spaces]
    said = (f"it has no {', '.join(missing)}" if missing else "", f"it has {', '.join(unknown)} too" if unknown else "")
    return ", and ".join(filter(None, said))


def _refusal(space: Any, name: str) -> ConfigError:
    text = str(space)
    text = text if len(text) <= 80 else f"{type(space).__name__}(...)"
    what = f"entry '{name}' of the observations is" if name else "the observations are"
    remedy = "leaves the entry out, or makes numbers of it" if name else "makes numbers of them"
    return ConfigError(
        f"env.id: {what} {text}; supported are Box (of one number or more), Discrete, MultiDiscrete, MultiBinary, "
        "and Dict and Tuple of these.\n"
        f"A wrapper that {remedy} may help; see env.wrappers."
    )
