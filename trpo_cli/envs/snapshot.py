"""Saves and restores an environment exactly, in the middle of an episode, including wrappers and generators.

The state of an environment consists of the attributes of its instance and of its wrappers, as far as they are plain
data. The spaces, spec and arguments of `gymnasium.make` are not state, except for the generators of the spaces, from
which the environment may draw. An attribute of any other type could hide state, so the environment cannot be saved: it
is restored exactly or not at all. There are three exceptions: Gymnasium's MuJoCo environments, whose attributes are
known here, objects of a few packages (`values.py`), and environments that offer `clone_state` and `restore_state`, as
those of Atari do. State outside the instance, such as variables of a module or spaces of the class, is not found; for
global generators see `global_generators.py`.

A snapshot consists of plain data (and whatever `clone_state` returns) and shares no memory with the environment. It can
be restored any number of times, to any environment made with the same arguments.
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
from numpy.lib.array_utils import byte_bounds

from trpo_cli.envs import generators
from trpo_cli.envs.values import SCALARS, SPACE, is_object, restore_value, save_value
from trpo_cli.errors import NoSnapshot

Env = gymnasium.Env[Any, Any]
Snapshot = list[dict[str, Any]]
"""The attributes of each layer by name, from the outermost wrapper to the environment itself."""

ARGUMENTS = {"metadata", "_metadata", "_saved_kwargs", "_ezpickle_args", "_ezpickle_kwargs"}
CONSTANTS = {
    "gymnasium.envs.toy_text.": {"P"},
    "popgym.envs.": {"deck_type", "deck_idx_type"},
    "gymnasium.envs.mujoco.": {"model", "mujoco_renderer"},
    "trpo_cli.envs.random_mdp": {"P", "initial_state_distrib"},
    "trpo_cli.envs.watched": {"index", "contract", "simulator"},
}
"""Attributes that known environments never change, by the package of their class."""
CLONE = "__clone__"


def save(env: Env) -> Snapshot:
    """The complete state of `env`. Raises `NoSnapshot` if the type of an attribute cannot be saved."""
    return [_save_layer(layer) for layer in layers(env)]


def restore(env: Env, snapshot: Snapshot) -> None:
    """Restore a snapshot of `env`, or of another environment made with the same arguments."""
    for layer, saved in zip(layers(env), snapshot, strict=True):
        own = vars(layer)
        for name in own.keys() - saved.keys() - constants(layer.__class__):
            if isinstance(own[name], gymnasium.Space):
                generators.restore_space(own[name])
            elif CLONE not in saved and not _is_code(own[name]):
                del own[name]  # created after the snapshot
        for name, value in saved.items():
            if name == CLONE:
                layer.restore_state(value)
            else:
                own[name] = value if type(value) in SCALARS else restore_value(value, own.get(name))


def reseed(env: Env, seed: int) -> None:
    """Seed every generator of `env`, `np_random` as `reset(seed=seed)` does; everything else stays the same.

    Generators hidden behind `clone_state`, such as that of Atari's sticky actions, cannot be seeded.
    """
    found = [env.unwrapped.np_random]
    for layer in layers(env):
        found += [g for g in _find_generators(layer) if g not in found]
    for layer in layers(env):
        spaces = (value for value in vars(layer).values() if isinstance(value, gymnasium.Space))
        parts = (part for space in spaces for part in generators.subspaces(space))
        found += [part._np_random for part in parts if part._np_random is not None]
    for stream, generator in enumerate(found):
        sequence = np.random.SeedSequence(seed, spawn_key=(stream,) if stream else ())
        generators.reseed_generator(generator, sequence)
    env.unwrapped._np_random_seed = seed


def _find_generators(holder: Any) -> Iterator[Any]:
    """Yield the generators among the attributes of a layer, and of the objects in it."""
    for value in vars(holder).values():
        if type(value) in generators.KINDS:
            yield value
        elif is_object(value):
            yield from _find_generators(value)


def seed_spaces(env: Env, seed: int) -> None:
    """Seed the spaces of an environment, which `reset` does not seed."""
    for layer in layers(env):
        for value in vars(layer).values():
            if isinstance(value, gymnasium.Space):
                value.seed(seed)


def obstacle(env: Env) -> str | None:
    """Why `env`, which has been reset, cannot be saved and restored exactly; None if it can."""
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
    """Yield the wrappers, outermost first, then the environment itself."""
    while isinstance(env, gymnasium.Wrapper):
        yield env
        env = env.env
    yield env


def _save_layer(layer: Any) -> dict[str, Any]:
    """The attributes of a layer. Those of unknown types are left to `clone_state`, if there is one."""
    clones = (
        not isinstance(layer, gymnasium.Wrapper) and hasattr(layer, "clone_state") and hasattr(layer, "restore_state")
    )
    fixed, saved = constants(layer.__class__), {}
    for name, value in vars(layer).items():
        if type(value) in SCALARS:
            saved[name] = value
        elif isinstance(value, gymnasium.Space):
            if any(states := generators.space_state(value)):
                saved[name] = {SPACE: states}
        elif name not in fixed and not _is_code(value):
            try:
                saved[name] = save_value(value)
            except TypeError as kind:
                if not clones:
                    raise NoSnapshot(f"{type(layer).__name__}.{name} holds {kind}, which is not plain data") from None
    if clones:
        rng = {"include_rng": True} if "include_rng" in signature(layer.clone_state).parameters else {}
        saved[CLONE] = layer.clone_state(**rng)
    return saved


@functools.cache
def constants(layer: type) -> frozenset[str]:
    """The names of attributes of a class of layers that are not state."""
    known = [names for package, names in CONSTANTS.items() if layer.__module__.startswith(package)]
    return frozenset(ARGUMENTS.union({"env"} if issubclass(layer, gymnasium.Wrapper) else (), *known))


def _is_code(value: Any) -> bool:
    """Whether `value` is a spec or a function without state; functions of Gymnasium's wrappers have none."""
    if isinstance(value, FunctionType):
        return value.__closure__ is None or value.__module__.startswith("gymnasium.wrappers.")
    return isinstance(value, EnvSpec)


def _shared_memory(env: Env) -> str | None:
    """Name two attributes whose shared memory a restore would separate, which is harmless in Gymnasium's wrappers."""
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
    """Yield the addresses [start, end) of every array and container in the value of an attribute."""
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
        case _ if is_object(value):
            yield id(value), id(value) + 1
            for item in vars(value).values():
                yield from _spans(item)
