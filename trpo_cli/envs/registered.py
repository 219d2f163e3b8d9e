"""Which environments there are: those of Gymnasium, ours, and those of packages that announce themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable

import gymnasium

from trpo_cli.config.plugins import announced, import_plugins
from trpo_cli.envs import random_mdp  # noqa: F401  registers RandomMDP-v0

VERSIONED = re.compile(r"(.+)-v(\d+)")


def registered(id: str) -> bool:
    """Whether an environment has this id. Packages that announce themselves are imported if nobody else knows it.

    Raises `ConfigError` if one of them cannot be imported.
    """
    if id not in gymnasium.registry:
        import_plugins(announced())
    return id in gymnasium.registry


def ids() -> list[str]:
    """Every id, but for the old MuJoCo tasks that Gymnasium keeps to say that they are gone."""
    return sorted(
        id
        for id, spec in gymnasium.registry.items()
        if not getattr(spec.entry_point, "__name__", "").startswith("_raise")
    )


def versions(id: str, known: Iterable[str]) -> list[str]:
    """The known ids that differ from this one in their version alone, or that lack one here; oldest first."""
    split = VERSIONED.fullmatch(id)
    name = split[1] if split else id
    found = [other for other in map(VERSIONED.fullmatch, known) if other and other[1].lower() == name.lower()]
    return [match[0] for match in sorted(found, key=lambda match: int(match[2]))]
