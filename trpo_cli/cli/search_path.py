"""Where Hydra looks for options beyond our own: `--config-dir`, announced packages, and Gymnasium's registry."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trpo_cli.cli.command_line import CommandLine, listed
from trpo_cli.config.groups import CONF, GROUPS
from trpo_cli.config.plugins import configurations, import_plugins
from trpo_cli.config.yaml_files import SLIPPED, option, slip
from trpo_cli.errors import ConfigError, UserError
from trpo_cli.shell import short_path

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
        from trpo_cli.envs.registered import is_registered

        self._import()
        return is_registered(config_path.removeprefix(GROUP))

    def load_config(self, config_path: str) -> ConfigResult:
        config = OmegaConf.create({"defaults": ["/env/gym@_here_", "_self_"], "id": config_path.removeprefix(GROUP)})
        return ConfigResult(self.provider, self.full_path(), config, header={"package": None})

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if results_filter is ObjectType.GROUP or not self.is_group(config_path):
            return []
        from trpo_cli.envs.registered import registered_ids

        self._import()
        return registered_ids()

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
            raise ConfigError(f"{short_path(path)}{slip(error)}") from error
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
    before, OurSearchPath.said = OurSearchPath.said, said
    try:
        yield
    finally:
        OurSearchPath.said = before


def sketched(said: CommandLine) -> DictConfig | None:
    """The configuration of the options that a command line chooses, without its keys; None if they do not compose.

    Parts that an algorithm does not have are left out.
    """
    words = (text.partition("=")[::2] for text in said.overrides)
    first = ((key, values.partition(",")[0]) for key, values in words)  # of a sweep
    chosen = {key: name for key, name in first if key.partition("/")[0] in GROUPS and re.fullmatch(r"[\w./-]+", name)}
    whole = {key: name for key, name in chosen.items() if key in GROUPS}
    return _composed(said, chosen) or _composed(said, whole)


def _composed(said: CommandLine, chosen: Mapping[str, str]) -> DictConfig | None:
    one, in_use = GlobalHydra.instance(), GlobalHydra.instance().hydra  # by a sweep
    one.clear()
    try:
        with extended(said), initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("train", [f"{key}={name}" for key, name in chosen.items()], return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, UserError):
        return None
    finally:
        one.hydra = in_use
