"""Code and configuration from outside this package: packages named in `plugins`, and those that announce themselves.

An installed package announces itself with an entry point of the group `trpo_cli.plugins`, whose value is the name of
the package. Whoever installed it trusts it, so parts may be built from it; it is imported only once something asks for
what nobody else has. Its folder `conf` is searched for options.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from trpo_cli.errors import ConfigError

ENTRY_POINTS = "trpo_cli.plugins"


def announced() -> list[str]:
    """The installed packages that announce themselves; none is imported."""
    return sorted({entry.module for entry in entry_points(group=ENTRY_POINTS)})


def configurations() -> list[Path]:
    """The folders `conf` of the packages that announce themselves; none is imported."""
    folders = []
    for package in announced():
        top, *inner = package.split(".")
        spec = find_spec(top)  # of the package within it, it would import the one around it
        for place in (spec and spec.submodule_search_locations) or ():
            folders.append(Path(place, *inner, "conf"))
    return [folder for folder in folders if folder.is_dir()]


def import_plugins(plugins: Sequence[str]) -> None:
    """Import the user's packages, which may register environments. Raises `ConfigError` for one that is not there."""
    for name in plugins:
        try:
            importlib.import_module(name)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"plugins: '{name}' cannot be imported: {error}") from error
