"""The values of an environment's attributes as plain data, and back."""

from __future__ import annotations

import enum
from collections import deque
from typing import Any

import mujoco  # type: ignore[import-untyped]
import numpy as np
from mujoco.batch import DATA_FIELDS  # type: ignore[import-untyped]

from trpo_cli.envs import generators

SCALARS = {type(None), bool, int, float, complex, str, bytes, *np.sctypeDict.values()} - {np.object_, np.void}
OBJECTS = ("minatar.", "popgym.core.")
"""Packages whose objects consist of their attributes: plain data, generators and other such objects."""
DEQUE, GENERATOR, SPACE, SIMULATION = "__deque__", "__generator__", "__space__", "__simulation__"
MEMBER = "__member__"  # of an enumeration
MODES = "popgym."  # where attributes that are members of one are so from the beginning
OBJECT, SAME = "__object__", "__same__"
"""Marks of what is saved as a dict with such a key; `SAME` is a generator that an object has already."""
SIMULATION_FIELDS = sorted(DATA_FIELDS)


def save_value(value: Any) -> Any:
    """The value of an attribute as data. Raises `TypeError`, naming the type, if that is impossible."""
    match value:
        case _ if type(value) in generators.KINDS:
            return {GENERATOR: generators.generator_state(value)}
        case _ if is_object(value):
            return {OBJECT: _save_object(value, [])}
        case mujoco.MjData():
            # Contacts and constraints are left out, since every step computes them. Quantities derived from the state
            # are kept, since they lag a substep behind it and cannot be recomputed. Integers are left out: they are
            # constant or recomputed indices, and with those of an untrusted file the engine could access any memory.
            arrays = ((name, getattr(value, name)) for name in SIMULATION_FIELDS)
            kept = {name: a.copy() for name, a in arrays if isinstance(a, np.ndarray) and a.dtype.kind not in "iu"}
            return {SIMULATION: kept, "time": value.time}
        case enum.Enum() if type(value).__module__.startswith(MODES):
            return {MEMBER: value.name}
        case _:
            return copy_plain(value)


def is_object(value: Any) -> bool:
    return type(value).__module__.startswith(OBJECTS)


def _save_object(value: Any, found: list[Any]) -> dict[str, Any]:
    """The attributes of an object. Of a generator that is one of those `found` already, they say which."""
    saved: dict[str, Any] = {}
    for name, inner in vars(value).items():
        place = next((place for place, one in enumerate(found) if one is inner), None)
        if is_object(inner):
            saved[name] = {OBJECT: _save_object(inner, found)}
        elif place is not None:
            saved[name] = {SAME: place}
        else:
            saved[name] = save_value(inner)
            found += [inner] if type(inner) in generators.KINDS else []
    return saved


def _restore_object(value: Any, saved: dict[str, Any], found: list[Any]) -> None:
    """Give an object these attributes, and its generators the same owners as before."""
    own = vars(value)
    for name in own.keys() - saved.keys():
        del own[name]
    for name, inner in saved.items():
        present = own.get(name)
        match inner:
            case {"__object__": attributes}:
                _restore_object(present, attributes, found)
            case {"__same__": place}:
                own[name] = found[place]
            case {"__generator__": state}:
                free = None if any(present is one for one in found) else present
                found.append(generators.restore_generator(state, free))
                own[name] = found[-1]
            case _:
                own[name] = restore_value(inner)


def copy_plain(value: Any) -> Any:
    """A copy of plain data. Raises `TypeError`, naming the type, for anything else."""
    kind = type(value)
    if kind in SCALARS:
        return value
    if kind is np.ndarray and not value.dtype.hasobject and value.dtype.names is None:
        return value.copy(order="K")
    if kind is list:
        return [copy_plain(item) for item in value]
    if kind is tuple:
        return tuple([copy_plain(item) for item in value])
    if kind is dict:
        return {copy_plain(key): copy_plain(item) for key, item in value.items()}
    if kind is deque:
        return {DEQUE: [copy_plain(item) for item in value], "maxlen": value.maxlen}
    raise TypeError(kind.__name__)


def restore_value(saved: Any, present: Any = None) -> Any:
    """A copy of a `saved` value. Generators and simulations are restored in place, since they may be shared."""
    match saved:
        case {"__generator__": state}:
            return generators.restore_generator(state, present)
        case {"__simulation__": fields, "time": time}:
            for name, array in fields.items():
                getattr(present, name)[...] = array
            present.time = time
            present.warning.number[:] = 0  # warnings after the snapshot
            return present
        case {"__object__": attributes}:
            _restore_object(present, attributes, [])
            return present
        case {"__member__": name}:
            return type(present)[name]
        case {"__space__": states}:
            generators.restore_space(present, states)
            return present
        case {"__deque__": items, "maxlen": maxlen}:
            return deque(map(restore_value, items), maxlen)
        case dict():
            return {key: restore_value(item) for key, item in saved.items()}
        case list():
            return [restore_value(item) for item in saved]
        case tuple():
            return tuple([restore_value(item) for item in saved])
        case _:
            return saved.copy() if type(saved) is np.ndarray else saved
