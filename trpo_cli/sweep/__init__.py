"""Many runs by one command: which jobs there are, how far each has come, and launching those that are missing."""

from __future__ import annotations

import importlib
import sys
import types


def register() -> None:
    """Make the sweepers known to Hydra, which takes them from its own namespace `hydra_plugins` only."""
    from hydra.core.plugins import Plugins

    plugins = Plugins.instance()  # before ours: it loads its own anew, from which ours derive
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
