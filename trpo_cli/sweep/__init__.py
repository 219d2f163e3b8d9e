"""Many runs by one command: lists the jobs, tracks their progress, and launches those that have not finished."""

from __future__ import annotations

import importlib
import sys
import types


def register() -> None:
    """Register the sweepers with Hydra, which accepts only those in its namespace `hydra_plugins`."""
    from hydra.core.plugins import Plugins

    plugins = Plugins.instance()  # first, since it reloads the sweepers that ours derive from
    from trpo_cli.sweep.search import Search
    from trpo_cli.sweep.sweeper import Sweep

    try:
        namespace = importlib.import_module("hydra_plugins")
    except ModuleNotFoundError:  # no other plugin is installed
        namespace = sys.modules["hydra_plugins"] = types.ModuleType("hydra_plugins")
        namespace.__path__ = []
    ours = types.ModuleType(Sweep.__module__)
    namespace.trpo_cli = sys.modules[ours.__name__] = ours  # type: ignore[attr-defined]
    for sweeper in (Sweep, Search):
        setattr(ours, sweeper.__name__, sweeper)
        plugins.register(sweeper)
