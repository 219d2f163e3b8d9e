"""Which network policy and critic are where nobody names one: for images, convolutions, which some methods share."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from trpo_cli.config.groups import CONF
from trpo_cli.config.sections import find_bases
from trpo_cli.config.yaml_files import read_option
from trpo_cli.envs.games import find_origin, find_package
from trpo_cli.errors import UserError

NETWORKS = ("policy", "critic")
FOR_VECTORS, FOR_IMAGES, FOR_SMALL, SHARED = "mlp", "cnn", "cnn_small", "shared"
LEAST = 3  # pixels a side, of which those of `cnn_small` do
SHARING = "ppo"  # it and what builds on it learn policy and critic from one loss
ENOUGH = 36  # pixels a side, of which the convolutions of `cnn` make one
OF_VECTORS = ("gymnasium.envs.", "gymnasium_robotics.", "trpo_cli.")
"""Packages whose environments show no images, but for `OF_IMAGES`."""
OF_IMAGES = "gymnasium.envs.box2d.car_racing"

_may_make: ContextVar[bool] = ContextVar("may_make", default=True)


def find_network(env: Any) -> str:
    """Return the option of `policy` and `critic` that reads what this option of `env` shows."""
    side = _find_side(str(env)) or 0
    return FOR_IMAGES if side >= ENOUGH else FOR_SMALL if side >= LEAST else FOR_VECTORS


def find_critic(env: Any, algo: Any) -> str:
    """Return the option of `critic` that goes with the network for `env`: for first-order methods, its own layers."""
    network = find_network(env)
    return SHARED if network != FOR_VECTORS and _shares_layers(str(algo)) else network


def describe_fitting(node: Mapping[str, Any], overrides: Sequence[str]) -> str:
    """Say which networks were chosen because of images, in a configuration that `overrides` compose to; or nothing."""
    typed = {text.partition("=")[0] for text in overrides}
    choices = {group: node["choices"].get(group) for group in NETWORKS if group not in typed}
    chosen = [f"{group}={name}" for group, name in choices.items() if name in (FOR_IMAGES, FOR_SMALL, SHARED)]
    others = [f"policy={FOR_VECTORS} reads flat numbers"] if "policy" in choices else []
    if choices.get("critic") == SHARED:
        others.append(f"critic={node['choices']['policy']} has layers of its own")
    elif not others:
        others.append(f"critic={FOR_VECTORS} reads flat numbers")
    because = f"because {node['env']['id']} shows images; {', and '.join(others)}"
    return f"{' and '.join(chosen)}, {because}" if chosen else ""


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
