"""Where Hydra looks for options beyond our own: `--config-dir`, announced packages, and Gymnasium's registry."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from trpo_cli.command_line import CommandLine, listed
from trpo_cli.errors import ConfigError
from trpo_cli.layout import relative
from trpo_cli.plugins import configurations, import_plugins
from trpo_cli.yaml_files import SLIPPED, option, slip

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


class FileConfigSource(file_config_source.FileConfigSource):
    """Files as Hydra reads them, whose slips are ours to tell.

    It has the name of Hydra's own, since the processes of a launcher get this one, and refuse two names for a scheme.
    """

    def load_config(self, config_path: str) -> ConfigResult:
        path = Path(self.path, self._normalize_file_name(config_path))
        try:
            text, content = option(path.read_bytes())
            header = self._get_header_dict(text)
        except SLIPPED as error:
            raise ConfigError(f"{relative(path)}{slip(error)}") from error
        return ConfigResult(self.provider, self.full_path(), OmegaConf.create(content), header)


class OurSearchPath(SearchPathPlugin):
    """Adds them behind our own configuration; the registry last, so that any YAML is asked before."""

    said: ClassVar[CommandLine | None] = None  # Hydra makes the instances

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        config_dir, overrides = (self.said.config_dir, self.said.overrides) if self.said else (None, [])
        for place in [*([config_dir] if config_dir else []), *listed("hydra.searchpath", overrides)]:
            search_path.append("command-line", place if "://" in place else f"file://{Path(place).resolve()}")
        for folder in configurations():
            search_path.append("announced", f"file://{folder}")
        search_path.append("registry", f"{SCHEME}://{','.join(listed('plugins', overrides))}")


@contextlib.contextmanager
def extended(said: CommandLine) -> Iterator[None]:
    """Have Hydra look there, while it serves this command line."""
    for plugin in (GymnasiumSource, OurSearchPath):
        Plugins.instance().register(plugin)
    SourcesRegistry.instance().types[FileConfigSource.scheme()] = FileConfigSource  # in place of Hydra's
    OurSearchPath.said = said
    try:
        yield
    finally:
        OurSearchPath.said = None
