"""The ids of environments: those of Gymnasium, this package, games, and plugins that announce themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from importlib.util import find_spec

import gymnasium

from trpo_cli.config.plugins import find_announced, import_plugins
from trpo_cli.envs import random_mdp  # noqa: F401  registers RandomMDP-v0
from trpo_cli.envs.atari.names import OF_ATARI, PACKAGE
from trpo_cli.envs.games import register_game, register_installed

VERSIONED = re.compile(r"(.+)-v(\d+)")


def is_registered(id: str) -> bool:
    """Whether an environment has this id.

    A package of games is registered if it is one of theirs. If it is unknown, all of them that are installed are, and
    packages that announce themselves are imported. Raises `ConfigError` if such a package is missing or cannot be
    imported.
    """
    register_game(id)
    if id not in gymnasium.registry:
        register_installed()
    if id not in gymnasium.registry:
        import_plugins(find_announced())
    return id in gymnasium.registry


def registered_ids() -> list[str]:
    """All ids, without those of the old MuJoCo tasks that Gymnasium keeps only to report their removal."""
    register_installed()
    return sorted(
        id
        for id, spec in gymnasium.registry.items()
        if not getattr(spec.entry_point, "__name__", "").startswith("_raise")
    )


def explain_atari(id: str) -> str:
    """Tell how to install the games of Atari, on a line of its own, if they are not and `id` may be one of them."""
    if find_spec(PACKAGE) is not None or "/" in id.removeprefix("ALE/"):
        return ""
    whose = "this game" if OF_ATARI.fullmatch(id) else "the games of Atari"
    return f"\npip install 'trpo-cli[atari]' installs {whose}"


def find_distributions(id: str, *others: str) -> list[str]:
    """Return the installed packages from which a registered environment, and `others` that it imports, come.

    Those of this program and of Gymnasium are left out.
    """
    entry = gymnasium.registry[id].entry_point
    module = entry if isinstance(entry, str) else str(getattr(entry, "__module__", ""))
    wanted = {module.partition(":")[0].partition(".")[0], *others} - {"gymnasium", "trpo_cli"}
    return sorted({name for one in wanted for name in packages_distributions().get(one, ())}) if wanted else []


def versions(id: str, known: Iterable[str]) -> list[str]:
    """The known ids with the name of `id`, which may lack a version; oldest version first."""
    split = VERSIONED.fullmatch(id)
    name = split[1] if split else id
    found = [other for other in map(VERSIONED.fullmatch, known) if other and other[1].lower() == name.lower()]
    return [match[0] for match in sorted(found, key=lambda match: int(match[2]))]
