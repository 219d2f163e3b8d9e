"""Checks that a snapshot from a file matches an environment. The file is untrusted and may only set data.

The type of an attribute may change during an episode, so the check covers only what code relies on: names, simulations,
generators and spaces.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from trpo_cli.envs import generators
from trpo_cli.envs.snapshot import CLONE, constants, layers, save
from trpo_cli.envs.values import GENERATOR, MEMBER, OBJECT, SAME, SIMULATION, SPACE, copy_plain, restore_value
from trpo_cli.errors import CheckpointError

Env = gymnasium.Env[Any, Any]


def check(env: Env, snapshot: Any) -> None:
    """Raise `CheckpointError` unless `snapshot` could be the result of `save(env)` at another time."""
    own = save(env)
    if type(snapshot) is not list or len(snapshot) != len(own):
        raise mismatch(f"the environment has {len(own)} layers, its wrappers included")
    for layer, has, given in zip(layers(env), own, snapshot, strict=True):
        if type(given) is not dict:
            raise mismatch(f"no attributes of {type(layer).__name__} are saved")
        for name, value in given.items():
            if not _fits(layer, name, has, value):
                raise mismatch(f"{type(layer).__name__}.{name}")


def is_plain(value: Any) -> bool:
    """Whether a file can hold `value`."""
    try:
        copy_plain(value)
    except TypeError:
        return False
    return True


def file_obstacle(env: Env) -> str | None:
    """Why no file can hold a snapshot of `env`; None if one can."""
    for layer, saved in zip(layers(env), save(env), strict=True):
        if not is_plain(saved.get(CLONE)):
            return f"{type(layer).__name__}.clone_state returns {type(saved[CLONE]).__name__}, which is not plain data"
    return None


def has_layout_of(array: Any, own: Any) -> bool:
    """Whether `array` has the shape and dtype of `own`."""
    return isinstance(array, np.ndarray) and array.shape == own.shape and array.dtype == own.dtype


def mismatch(reason: str) -> CheckpointError:
    """The error for a snapshot that does not match its environment."""
    return CheckpointError(f"the saved environments do not match: {reason}")


def _fits(layer: Any, name: Any, has: dict[str, Any], value: Any) -> bool:
    present = vars(layer).get(name) if isinstance(name, str) else None
    if _has_mark(value, SPACE) or isinstance(present, gymnasium.Space):
        return isinstance(present, gymnasium.Space) and _fits_space(present, value)
    if name not in has and not _may_appear(layer, name):
        return False
    own = has.get(name)
    if _has_mark(value, SIMULATION) or _has_mark(own, SIMULATION):
        return _fits_simulation(own, value)
    if _has_mark(value, OBJECT) or _has_mark(own, OBJECT):
        return _fits_object(own, value, [])
    if _has_mark(value, GENERATOR):
        generators.restore_generator(value[GENERATOR], None)
        return True
    if _has_mark(value, MEMBER) or _has_mark(own, MEMBER):
        members = getattr(type(present), "__members__", {})
        return _has_mark(own, MEMBER) and _has_mark(value, MEMBER) and value[MEMBER] in [*members]
    return _is_data(value)


def _is_data(value: Any) -> bool:
    """Whether `value` is plain data that can be restored."""
    try:
        restore_value(value)
    except (LookupError, TypeError, ValueError, AttributeError):
        return False
    return is_plain(value)


def _may_appear(layer: Any, name: Any) -> bool:
    """Whether a step may create the attribute `name`: it must not hide code or anything configured."""
    if not isinstance(name, str) or not name.isidentifier() or name.startswith("__") or name in vars(layer):
        return False
    return name not in constants(layer.__class__) and not hasattr(getattr(type(layer), name, None), "__get__")


def _has_mark(value: Any, mark: str) -> bool:
    return isinstance(value, dict) and mark in value


def _fits_object(own: Any, value: Any, found: list[Any]) -> bool:
    """Whether `value` has the attributes of the saved object `own`; `found` are the generators so far."""
    if not (_has_mark(own, OBJECT) and _has_mark(value, OBJECT) and type(value[OBJECT]) is dict):
        return False
    if own[OBJECT].keys() != value[OBJECT].keys():
        return False
    return all(_fits_attribute(own[OBJECT][name], inner, found) for name, inner in value[OBJECT].items())


def _fits_attribute(own: Any, value: Any, found: list[Any]) -> bool:
    if _has_mark(own, OBJECT) or _has_mark(value, OBJECT):
        return _fits_object(own, value, found)
    if _has_mark(own, GENERATOR) or _has_mark(own, SAME):
        if _has_mark(value, SAME):
            return type(value[SAME]) is int and 0 <= value[SAME] < len(found)
        if not _has_mark(value, GENERATOR):
            return False
        found.append(generators.restore_generator(value[GENERATOR], None))
        return True
    return not (_has_mark(value, GENERATOR) or _has_mark(value, SAME)) and _is_data(value)


def _fits_space(space: gymnasium.Space[Any], value: Any) -> bool:
    states = value.get(SPACE) if isinstance(value, dict) else None
    if not isinstance(states, list) or len(states) != len(list(generators.subspaces(space))):
        return False
    for state in states:
        if state is not None:
            generators.restore_generator(state, None)
    return True


def _fits_simulation(own: Any, value: Any) -> bool:
    if not (_has_mark(own, SIMULATION) and _has_mark(value, SIMULATION) and own.keys() == value.keys()):
        return False
    fields, given = own[SIMULATION], value[SIMULATION]
    if type(value["time"]) is not float or type(given) is not dict or fields.keys() != given.keys():
        return False
    return all(has_layout_of(given[name], array) for name, array in fields.items())
