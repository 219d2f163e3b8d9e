"""Many runs by one command: which jobs there are, how far each has come, and launching those that are missing."""

from __future__ import annotations

import importlib
import sys
import types


def register() -> None:
    """Make the sweepers known to Hydra, which takes them from its own namespace `hydra_plugins` only."""
    from hydra.core.plugins import Plugins

    plugins = Plugins.instance()  # before ours: it loads its own anew, from which ours derive
    from trpo_cli.sweep import sweeper

    try:
        namespace = importlib.import_module("hydra_plugins")
    except ModuleNotFoundError:  # no other plugin is installed
        namespace = sys.modules["hydra_plugins"] = types.ModuleType("hydra_plugins")
        namespace.__path__ = []
    namespace.trpo_cli = sys.modules[sweeper.Sweep.__module__] = sweeper  # type: ignore[attr-defined]
    plugins.register(sweeper.Sweep)
