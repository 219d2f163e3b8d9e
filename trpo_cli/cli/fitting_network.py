"""Which network policy and critic are where nobody names one: for images, convolutions, which some methods share; for
environments that show only a part of their state, a memory."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

from trpo_cli.config.groups import CONF
from trpo_cli.config.sections import find_bases
from trpo_cli.config.yaml_files import read_option
from trpo_cli.envs.games import find_origin, find_package
from trpo_cli.errors import UserError

NETWORKS = ("policy", "critic")
FOR_VECTORS, FOR_IMAGES, FOR_SMALL, FOR_PARTS, SHARED = "mlp", "cnn", "cnn_small", "gru", "shared"
WITH_MEMORY = ("gru", "lstm")
LEAST = 3  # pixels a side, of which those of `cnn_small` do
SHARING = "ppo"  # it and what builds on it learn policy and critic from one loss
ENOUGH = 36  # pixels a side, of which the convolutions of `cnn` make one
OF_VECTORS = ("gymnasium.envs.", "gymnasium_robotics.", "trpo_cli.")
"""Packages whose environments show no images, but for `OF_IMAGES`."""
OF_IMAGES = "gymnasium.envs.box2d.car_racing"


class Reason(NamedTuple):
    """Why a network was chosen."""

    shows: str
    others: str  # what those for vectors do


_IMAGES = Reason("shows images", "reads flat numbers")
REASONS = {
    FOR_IMAGES: _IMAGES,
    FOR_SMALL: _IMAGES,
    FOR_PARTS: Reason("shows only a part of its state", "remembers nothing"),
}
_may_make: ContextVar[bool] = ContextVar("may_make", default=True)


def find_network(env: Any) -> str:
    """Return the option of `policy` and `critic` that reads what this option of `env` shows."""
    package = find_package(str(env))
    if package and package.side is None:
        return FOR_PARTS
    side = _find_side(str(env)) or 0
    return FOR_IMAGES if side >= ENOUGH else FOR_SMALL if side >= LEAST else FOR_VECTORS


def find_critic(env: Any, algo: Any, policy: Any = None) -> str:
    """Return the option of `critic` that goes with the network for `env`: for first-order methods, its own layers.

    With a `policy` that remembers, it is a critic that does; None: the one that goes with `env`.
    """
    network = find_network(env)
    if policy in WITH_MEMORY or (policy is not None and network == FOR_PARTS):
        network = policy if policy in WITH_MEMORY else FOR_VECTORS
    return SHARED if network in (FOR_IMAGES, FOR_SMALL) and _shares_layers(str(algo)) else network


def describe_fitting(node: Mapping[str, Any], overrides: Sequence[str]) -> str:
    """Say which networks were chosen because of what an environment shows, in a configuration of the `overrides`.

    Nothing is said of those for vectors.
    """
    typed = {text.partition("=")[0] for text in overrides}
    choices = {group: node["choices"].get(group) for group in NETWORKS if group not in typed}
    follows = typed & {"policy"} and node["choices"]["policy"] in WITH_MEMORY  # what the critic is goes with that
    chosen = [f"{group}={name}" for group, name in choices.items() if name in (*REASONS, SHARED) and not follows]
    if not chosen:
        return ""
    network = next((name for name in choices.values() if name in REASONS), FOR_IMAGES)
    others = [f"policy={FOR_VECTORS} {REASONS[network].others}"] if "policy" in choices else []
    if choices.get("critic") == SHARED:
        others.append(f"critic={node['choices']['policy']} has layers of its own")
    elif not others:
        others.append(f"critic={FOR_VECTORS} {REASONS[network].others}")
    return f"{' and '.join(chosen)}, because {node['env']['id']} {REASONS[network].shows}; {', and '.join(others)}"


@contextlib.contextmanager
def without_making() -> Iterator[None]:
    """Within the context, no environment is made to look at it: an answer is wanted at once, and may be a guess."""
    token = _may_make.set(False)
    try:
        yield
    finally:
        _may_make.reset(token)


def _shares_layers(algo: str) -> bool:
    """Whether an algorithm of this package, or one that it builds on, learns policy and critic from one loss."""
    path = CONF / "algo" / f"{algo}.yaml"
    if algo == SHARING or not path.is_file():
        return algo == SHARING
    return any(map(_shares_layers, find_bases(read_option(path.read_bytes())[1])))


def _find_side(id: str) -> int | None:
    """Return the shorter side of the image that an environment shows, in pixels; None if it shows none.

    It is known from the id, or from where the environment comes from; only others are made and looked at.
    """
    if package := find_package(id):
        return package.side
    if any((CONF / folder / f"{id}.yaml").is_file() for folder in ("tuned", "env")):
        return None
    import gymnasium

    spec = gymnasium.registry.get(id)
    if spec is None:
        return None
    if package := find_origin(spec):
        return package.side
    entry = spec.entry_point
    module = f"{entry if isinstance(entry, str) else getattr(entry, '__module__', '')}"
    if module.startswith(OF_IMAGES):
        return ENOUGH
    return None if module.startswith(OF_VECTORS) or not _may_make.get() else _look(id)


@functools.cache
def _look(id: str) -> int | None:
    """Make one environment, and see what it shows. Whatever fails here will fail again, and be told then."""
    from trpo_cli.envs.make import Task
    from trpo_cli.seeding import isolate_globals

    task = Task(
        id, {}, None, normalize_observation=False, normalize_reward=False, observation_clip=1.0, reward_clip=1.0
    )
    try:
        with isolate_globals(0, "probe"), task.probe() as env:
            spec, _ = task.make_encoder(task.read_spaces(env)[0])
            return sorted(spec.shape)[-2] if spec.is_image else None
    except UserError:
        return None
