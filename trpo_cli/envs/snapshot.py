"""Exact save and restore of an environment in the middle of an episode, wrappers and generators included.

The state of an environment is every attribute of its instance and of each wrapper around it that is plain data; what
`gymnasium.make` was told (spaces, spec, arguments) is no state. An attribute of any other kind could hold state that
nobody sees from here, so it is an obstacle: an environment is restored exactly or not at all. Two ways out: the
environments of Gymnasium's that wrap MuJoCo are known here, and an environment may hide what it likes if it offers
`clone_state` and `restore_state`, as Atari's do. Of its spaces the generators are state, for it may draw from them.
State outside the instance (variables of a module, spaces of the class) is not found; of global generators see
`global_generators.py`.

A snapshot is made of plain data alone (of `clone_state`, whatever that gives), shares no memory with the environment,
can be restored any number of times, and into any environment made with the same arguments.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator
from inspect import signature
from itertools import pairwise
from types import FunctionType
from typing import Any

import gymnasium
import mujoco  # type: ignore[import-untyped]
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.envs.registration import EnvSpec
from mujoco.batch import DATA_FIELDS  # type: ignore[import-untyped]
from numpy.lib.array_utils import byte_bounds

from trpo_cli.envs import generators
from trpo_cli.errors import NoSnapshot

Env = gymnasium.Env[Any, Any]
Snapshot = list[dict[str, Any]]
"""The attributes of each layer by name, from the outermost wrapper to the environment itself."""

SCALARS = {type(None), bool, int, float, complex, str, bytes, *np.sctypeDict.values()} - {np.object_, np.void}
ARGUMENTS = {"metadata", "_metadata", "_saved_kwargs", "_ezpickle_args", "_ezpickle_kwargs"}
CONSTANTS = {
    "gymnasium.envs.toy_text.": {"P"},
    "gymnasium.envs.mujoco.": {"model", "mujoco_renderer"},
    "trpo_cli.envs.random_mdp": {"P", "initial_state_distrib"},
    "trpo_cli.envs.watched": {"index", "declared", "simulator"},
}
"""What environments known here never change, by the package of the class."""
DEQUE, GENERATOR, SPACE, SIMULATION, CLONE = "__deque__", "__generator__", "__space__", "__simulation__", "__clone__"
SIMULATION_FIELDS = sorted(DATA_FIELDS)


def save(env: Env) -> Snapshot:
    """The whole state of `env`. Raises `NoSnapshot` if it has attributes of a kind that cannot be saved."""
    return [_save_layer(layer) for layer in layers(env)]


def restore(env: Env, snapshot: Snapshot) -> None:
    """Put `env` into the state in which `save` found it, or another environment made with the same arguments."""
    for layer, saved in zip(layers(env), snapshot, strict=True):
        own = vars(layer)
        for name in own.keys() - saved.keys() - constants(layer.__class__):
            if isinstance(own[name], gymnasium.Space):
                generators.restore_space(own[name])
            elif CLONE not in saved and not _is_code(own[name]):
                del own[name]  # it came into being after the snapshot
        for name, value in saved.items():
            if name == CLONE:
                layer.restore_state(value)
            else:
                own[name] = value if type(value) in SCALARS else restored(value, own.get(name))


def reseed(env: Env, seed: int) -> None:
    """Start every generator of `env` anew, `np_random` as `reset(seed=seed)` does; all else stays.

    What draws random numbers behind `clone_state`, such as Atari's sticky actions, is out of reach and goes on.
    """
    found = [env.unwrapped.np_random]
    for layer in layers(env):
        found += [g for g in vars(layer).values() if type(g) in generators.KINDS and g not in found]
    for layer in layers(env):
        spaces = (value for value in vars(layer).values() if isinstance(value, gymnasium.Space))
        parts = (part for space in spaces for part in generators.parts(space))
        found += [part._np_random for part in parts if part._np_random is not None]
    for stream, generator in enumerate(found):
        sequence = np.random.SeedSequence(seed, spawn_key=(stream,) if stream else ())
        generators.start_anew(generator, sequence)
    env.unwrapped._np_random_seed = seed


def seed_spaces(env: Env, seed: int) -> None:
    """Seed what an environment draws from its own spaces, which a reset leaves to chance."""
    for layer in layers(env):
        for value in vars(layer).values():
            if isinstance(value, gymnasium.Space):
                value.seed(seed)


def obstacle(env: Env) -> str | None:
    """Why `env`, which has been reset, cannot be saved and restored exactly, in a few words; None if it can."""
    settings: Any = env.unwrapped
    if env.render_mode is not None:
        return f"render_mode={env.render_mode}"
    try:
        save(env)
    except NoSnapshot as obstacle:
        return str(obstacle)
    if isinstance(settings, MujocoEnv) and settings.model.nplugin:
        return "the model has plugins"
    if isinstance(settings, MujocoEnv) and settings.model.opt.enableflags & mujoco.mjtEnableBit.mjENBL_SLEEP:
        return "the model lets bodies sleep"
    return _shared_memory(env)


def layers(env: Any) -> Iterator[Any]:
    """The wrappers, outermost first, then the environment itself."""
    while isinstance(env, gymnasium.Wrapper):
        yield env
        env = env.env
    yield env


def _save_layer(layer: Any) -> dict[str, Any]:
    """Its attributes. Those of unknown kinds are left to `clone_state` if there is one."""
    clones = (
        not isinstance(layer, gymnasium.Wrapper) and hasattr(layer, "clone_state") and hasattr(layer, "restore_state")
    )
    fixed, saved = constants(layer.__class__), {}
    for name, value in vars(layer).items():
        if type(value) in SCALARS:
            saved[name] = value
        elif isinstance(value, gymnasium.Space):
            if any(states := generators.of_space(value)):
                saved[name] = {SPACE: states}
        elif name not in fixed and not _is_code(value):
            try:
                saved[name] = _saved(value)
            except TypeError as kind:
                if not clones:
                    raise NoSnapshot(f"{type(layer).__name__}.{name} holds {kind}, which is no plain data") from None
    if clones:
        rng = {"include_rng": True} if "include_rng" in signature(layer.clone_state).parameters else {}
        saved[CLONE] = layer.clone_state(**rng)
    return saved


@functools.cache
def constants(layer: type) -> frozenset[str]:
    """The names of attributes of a class of layers that are no state."""
    known = [names for package, names in CONSTANTS.items() if layer.__module__.startswith(package)]
    return frozenset(ARGUMENTS.union({"env"} if issubclass(layer, gymnasium.Wrapper) else (), *known))


def _is_code(value: Any) -> bool:
    """Specs, and functions without variables of their own; those of Gymnasium's wrappers have only constants."""
    if isinstance(value, FunctionType):
        return value.__closure__ is None or value.__module__.startswith("gymnasium.wrappers.")
    return isinstance(value, EnvSpec)


def _saved(value: Any) -> Any:
    """An attribute's value. Raises `TypeError`, naming the kind, if it is no data."""
    match value:
        case _ if type(value) in generators.KINDS:
            return {GENERATOR: generators.state_of(value)}
        case mujoco.MjData():
            # All but contacts and constraints, which every step makes anew; what is derived from the state is a
            # substep behind it, so that it could not be computed again. Integers are indices, constant or made anew
            # too: from a stranger's file, the engine would read and write wherever they point.
            arrays = ((name, getattr(value, name)) for name in SIMULATION_FIELDS)
            kept = {name: a.copy() for name, a in arrays if isinstance(a, np.ndarray) and a.dtype.kind not in "iu"}
            return {SIMULATION: kept, "time": value.time}
        case _:
            return copied(value)


def copied(value: Any) -> Any:
    """A copy of plain data; raises `TypeError`, naming the kind, of any other."""
    kind = type(value)
    if kind in SCALARS:
        return value
    if kind is np.ndarray and not value.dtype.hasobject and value.dtype.names is None:
        return value.copy(order="K")
    if kind is list:
        return [copied(item) for item in value]
    if kind is tuple:
        return tuple([copied(item) for item in value])
    if kind is dict:
        return {copied(key): copied(item) for key, item in value.items()}
    if kind is deque:
        return {DEQUE: [copied(item) for item in value], "maxlen": value.maxlen}
    raise TypeError(kind.__name__)


def restored(saved: Any, present: Any = None) -> Any:
    """A copy of what was `saved`; a generator or a simulation is the `present` one, since others may refer to it."""
    match saved:
        case {"__generator__": state}:
            return generators.restored(state, present)
        case {"__simulation__": fields, "time": time}:
            for name, array in fields.items():
                getattr(present, name)[...] = array
            present.time = time
            present.warning.number[:] = 0  # those of the future it comes from
            return present
        case {"__space__": states}:
            generators.restore_space(present, states)
            return present
        case {"__deque__": items, "maxlen": maxlen}:
            return deque(map(restored, items), maxlen)
        case dict():
            return {key: restored(item) for key, item in saved.items()}
        case list():
            return [restored(item) for item in saved]
        case tuple():
            return tuple([restored(item) for item in saved])
        case _:
            return saved.copy() if type(saved) is np.ndarray else saved


def _shared_memory(env: Env) -> str | None:
    """Two attributes that would no longer be one after a restore, in words. Gymnasium's wrappers do not mind."""
    spans = sorted(
        (*span, f"{type(layer).__name__}.{name}")
        for layer in layers(env)
        if not type(layer).__module__.startswith("gymnasium.wrappers.")
        for name, value in vars(layer).items()
        if name not in constants(layer.__class__)
        for span in _spans(value)
    )
    both = next(((one, other) for (_, end, one), (start, _, other) in pairwise(spans) if start < end), None)
    return both and f"{both[0]} and {both[1]} share memory"


def _spans(value: Any) -> Iterator[tuple[int, int]]:
    """The addresses [start, end) of every array and container in an attribute's value."""
    match value:
        case np.ndarray():
            if value.size:
                yield byte_bounds(value)
        case list() | dict() | deque():
            yield id(value), id(value) + 1
            for item in value.values() if isinstance(value, dict) else value:
                yield from _spans(item)
        case tuple():
            for item in value:
                yield from _spans(item)
