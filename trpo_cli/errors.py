"""What can go wrong in a way the user can mend: said in a few lines, without a traceback, with exit status 1."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

TAKEN = "'defaults: [OPTION, _self_]' takes that of another option"
"""What mends a YAML file that says too little."""


class UserError(Exception):
    """Base of every error whose message alone tells the user what to do."""


class ConfigError(UserError):
    """A key, value or combination of the configuration that does not fit."""


class UnknownNameError(ConfigError):
    """A name that no key, group or option has: the help says which there are."""


class EnvironmentFault(UserError):
    """An environment returned something no learner can use, or raised."""


class EnvironmentMisfit(UserError):
    """An environment returned what it does not declare, and would do so again: no further try is of use."""


class NoSnapshot(EnvironmentFault):
    """The state of an environment cannot be saved."""


class TrainingError(UserError):
    """Training cannot go on from here; the last checkpoint is intact."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged or of an unknown version."""


class NewerCheckpointError(CheckpointError):
    """A checkpoint that a later version of this program wrote."""


class RunDirectoryError(UserError):
    """A run directory that cannot be used as asked."""


def counted(number: int, noun: str) -> str:
    """`1 run`, `2 runs`, `3 worker processes`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{'es' if noun.endswith('s') else 's'}"


def nearest(given: str, known: Iterable[str], above: str = "") -> str:
    """`; did you mean 'x'?` for the known name closest to `given`, with what stands `above` it; nothing if none is."""
    names = {name.lower(): name for name in known if name != given}
    close = difflib.get_close_matches(given.lower(), names, n=1, cutoff=0.6)
    return f"; did you mean '{above}{names[close[0]]}'?" if close else ""
