"""Settings of an environment that an evaluation changes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from trpo_cli.errors import ConfigError


def change_environment(node: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Return the configuration with other settings of the environment, written as on the command line of training.

    Raises `ConfigError` for anything else; whether a key exists and takes the value is checked when it is built.
    """
    changed = copy.deepcopy(dict(node))
    for text in changes:
        key, equals, _ = text.partition("=")
        path = key.split(".")
        if not equals or len(path) < 2 or path[0] != "env":
            raise ConfigError(f"--set: got '{text}'; it should be a setting of the environment, env.KEY=VALUE")
        try:
            value: Any = OverridesParser.create().parse_override(f"++{text}").value()
        except HydraException as error:
            raise ConfigError(f"--set: got '{text}', whose value cannot be read") from error
        inner = changed
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"--set: got '{text}', but {name} has no keys")
        inner[path[-1]] = value
    return changed
