"""Where Hydra looks for options beyond our own: `--config-dir`, announced packages, and Gymnasium's registry."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from trpo_cli.command_line import CommandLine
from trpo_cli.plugins import configurations, import_plugins

SCHEME = "gymnasium"
GROUP = "env/"


class GymnasiumSource(ConfigSource):
    """Answers `env=ID` for every registered environment: what `env=gym` says, with the id.

    What follows the scheme in its path are packages to import first, which may register some. It goes by value into
    the processes of a launcher, and needs nothing else there.
    """

    @staticmethod
    def scheme() -> str:
        return SCHEME

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return config_path == GROUP.rstrip("/")

    def is_config(self, config_path: str) -> bool:
        if not config_path.startswith(GROUP):
            return False
        from trpo_cli.envs.registered import registered

        self._import()
        return registered(config_path.removeprefix(GROUP))

    def load_config(self, config_path: str) -> ConfigResult:
        config = OmegaConf.create({"defaults": ["/env/gym@_here_", "_self_"], "id": config_path.removeprefix(GROUP)})
        return ConfigResult(self.provider, self.full_path(), config, header={"package": None})

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if results_filter is ObjectType.GROUP or not self.is_group(config_path):
            return []
        from trpo_cli.envs.registered import ids

        self._import()
        return ids()

    def _import(self) -> None:
        import_plugins([name for name in self.path.split(",") if name])


class OurSearchPath(SearchPathPlugin):
    """Adds them behind our own configuration; the registry last, so that any YAML is asked before."""

    said: ClassVar[CommandLine | None] = None  # Hydra makes the instances

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        config_dir, overrides = (self.said.config_dir, self.said.overrides) if self.said else (None, [])
        for place in [*([config_dir] if config_dir else []), *_named("hydra.searchpath", overrides)]:
            search_path.append("command-line", place if "://" in place else f"file://{Path(place).resolve()}")
        for folder in configurations():
            search_path.append("announced", f"file://{folder}")
        search_path.append("registry", f"{SCHEME}://{','.join(_named('plugins', overrides))}")


def _named(key: str, overrides: list[str]) -> list[str]:
    """The list that is given for a key on the command line, if one is."""
    words = [text for text in overrides if text.lstrip("+").startswith(f"{key}=")]
    value: Any = OverridesParser.create().parse_override(words[-1]).value() if words else []
    return [str(item) for item in value] if isinstance(value, list) else []


@contextlib.contextmanager
def extended(said: CommandLine) -> Iterator[None]:
    """Have Hydra look there, while it serves this command line."""
    for plugin in (GymnasiumSource, OurSearchPath):
        Plugins.instance().register(plugin)
    OurSearchPath.said = said
    try:
        yield
    finally:
        OurSearchPath.said = None
