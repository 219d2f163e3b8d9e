"""Trust-region policy optimisation from the command line. Read `train.py` first.

From Python, `load(run)` gives a trained run, and `train(["algo=trpo", ...])` trains one. `runs/README.md` shows both.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # these import torch and Hydra, which takes a second
    from trpo_cli.errors import UserError
    from trpo_cli.play.episodes import Evaluation
    from trpo_cli.play.loaded import LoadedRun, load

    def train(arguments: Iterable[str] = ()) -> LoadedRun:
        """Train in this process as `trpo-train ARGUMENTS` does, and return the run.

        Raises `UserError` for a mistake in the arguments and for whatever else ends a run, and `KeyboardInterrupt`,
        after a checkpoint, if Ctrl-C stops it.
        """


__version__ = "0.1.0"
__all__ = ["Evaluation", "LoadedRun", "UserError", "load", "train"]
_MODULES = {"Evaluation": "play.episodes", "LoadedRun": "play.loaded", "UserError": "errors", "load": "play.loaded"}


def __getattr__(name: str) -> Any:
    if name == "train":  # the module can be called
        return importlib.import_module("trpo_cli.train")
    if name in _MODULES:
        return getattr(importlib.import_module(f"trpo_cli.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'trpo_cli' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
