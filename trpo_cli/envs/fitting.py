"""Whether a snapshot that came from a file fits an environment. It may be a stranger's: it shall set data, no more.

What an environment keeps may change its kind as it goes (a tuple where an array was), so only what code relies on is
held to what this environment has: names, simulations, generators, spaces.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from trpo_cli.envs import generators
from trpo_cli.envs.snapshot import CLONE, GENERATOR, SIMULATION, SPACE, constants, copied, layers, restored, save
from trpo_cli.errors import CheckpointError

Env = gymnasium.Env[Any, Any]


def check(env: Env, snapshot: Any) -> None:
    """Raises `CheckpointError` unless `snapshot` could be what `save(env)` gave at another time."""
    own = save(env)
    if type(snapshot) is not list or len(snapshot) != len(own):
        raise misfit(f"the environment has {len(own)} layers, its wrappers included")
    for layer, has, given in zip(layers(env), own, snapshot, strict=True):
        if type(given) is not dict:
            raise misfit(f"{type(layer).__name__} has attributes")
        for name, value in given.items():
            if not _fits(layer, name, has, value):
                raise misfit(f"{type(layer).__name__}.{name}")


def plain(value: Any) -> bool:
    """Whether a file can hold it."""
    try:
        copied(value)
    except TypeError:
        return False
    return True


def opaque(env: Env) -> str | None:
    """What of a snapshot of `env` no file can hold, in words; None if there is nothing."""
    for layer, saved in zip(layers(env), save(env), strict=True):
        if not plain(saved.get(CLONE)):
            return f"{type(layer).__name__}.clone_state gives {type(saved[CLONE]).__name__}, which is no plain data"
    return None


def same_table(array: Any, own: Any) -> bool:
    """Whether `array` is one of the shape and kind of `own`."""
    return isinstance(array, np.ndarray) and array.shape == own.shape and array.dtype == own.dtype


def misfit(what: str) -> CheckpointError:
    return CheckpointError(f"the saved environments do not fit: {what}")


def _fits(layer: Any, name: Any, has: dict[str, Any], value: Any) -> bool:
    present = vars(layer).get(name) if isinstance(name, str) else None
    if _special(value, SPACE) or isinstance(present, gymnasium.Space):
        return isinstance(present, gymnasium.Space) and _fits_space(present, value)
    if name not in has and not _may_appear(layer, name):
        return False
    simulation = has.get(name)
    if _special(value, SIMULATION) or _special(simulation, SIMULATION):
        return _fits_simulation(simulation, value)
    if _special(value, GENERATOR):
        generators.restored(value[GENERATOR], None)
        return True
    try:
        restored(value)
    except (LookupError, TypeError, ValueError, AttributeError):
        return False
    return plain(value)


def _may_appear(layer: Any, name: Any) -> bool:
    """Whether it may be an attribute that a step brings into being: none that hides code or what was configured."""
    if not isinstance(name, str) or not name.isidentifier() or name.startswith("__") or name in vars(layer):
        return False
    return name not in constants(layer.__class__) and not hasattr(getattr(type(layer), name, None), "__get__")


def _special(value: Any, mark: str) -> bool:
    return isinstance(value, dict) and mark in value


def _fits_space(space: gymnasium.Space[Any], value: Any) -> bool:
    states = value.get(SPACE) if isinstance(value, dict) else None
    if not isinstance(states, list) or len(states) != len(list(generators.parts(space))):
        return False
    for state in states:
        if state is not None:
            generators.restored(state, None)
    return True


def _fits_simulation(own: Any, value: Any) -> bool:
    if not (_special(own, SIMULATION) and _special(value, SIMULATION) and own.keys() == value.keys()):
        return False
    fields, given = own[SIMULATION], value[SIMULATION]
    if type(value["time"]) is not float or type(given) is not dict or fields.keys() != given.keys():
        return False
    return all(same_table(given[name], array) for name, array in fields.items())
