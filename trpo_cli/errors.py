"""Errors that the user can fix. Commands print their messages without a traceback and exit with status 1."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Iterable, Sequence
from typing import Any

INHERIT_HINT = "'defaults: [OPTION, _self_]' inherits it from another option"
"""The hint for a YAML file that lacks keys."""


class UserError(Exception):
    """Base class of errors whose message alone tells the user what to do."""


class ConfigError(UserError):
    """An invalid key, value or combination in the configuration."""


class UnknownNameError(ConfigError):
    """An unknown key, group or option; the help lists the known ones."""


class EnvironmentFault(UserError):
    """An environment raised an error, or returned something that cannot be learned from."""


class EnvironmentContractError(UserError):
    """An environment returned something it does not declare, and would do so again, so retrying is useless."""


class NoSnapshot(EnvironmentFault):
    """The state of an environment cannot be saved."""


class TrainingError(UserError):
    """Training cannot continue; the last checkpoint is intact."""


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, or of an unknown version."""


class NewerCheckpointError(CheckpointError):
    """A later version of this program wrote the checkpoint."""


class RunDirectoryError(UserError):
    """A run directory cannot be used in the requested way."""


def check_names(given: Any, path: str, what: str) -> list[str]:
    """Return the strings that a caller gave as a list, a tuple or a generator. Raises `ConfigError` for anything else.

    `what` says of what the list should be, with an example.
    """
    names = list(given) if isinstance(given, Iterable) and not isinstance(given, str | bytes) else None
    if names is None or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{path}: got {(given if names is None else names)!r}; it should be a list of {what}")
    return names


def require_packages(option: str, extra: str, *names: str) -> None:
    """Import what an `option` needs. Raises `ConfigError` for a package that is missing, which our `extra` installs."""
    for name in names:
        package = name.replace("_", "-")
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"{option}: {package} is not installed: pip install 'trpo-cli[{extra}]'")
        try:
            importlib.import_module(name)
        except ImportError as error:  # of a library of the system that it needs
            raise ConfigError(f"{option}: {package} is installed, but cannot be imported: {error}") from error


def counted(number: int, noun: str) -> str:
    """`1 run`, `2 runs`, `3 worker processes`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{'es' if noun.endswith('s') else 's'}"


def enumerated(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def did_you_mean(given: str, known: Iterable[str], above: str = "") -> str:
    """`; did you mean 'x'?` for the known name closest to `given`, with what stands `above` it; nothing if none is."""
    names = {name.lower(): name for name in known if name != given}
    close = difflib.get_close_matches(given.lower(), names, n=1, cutoff=0.6)
    return f"; did you mean '{above}{names[close[0]]}'?" if close else ""


def suggest_name(name: str, known: Sequence[str], above: str = "") -> str:
    """Suggest the nearest of the known names, prefixed by `above`, or list them all."""
    return did_you_mean(name, known, above) or f"; there are: {', '.join(known)}"
