"""Where Hydra looks for options beyond our own: `--config-dir`, announced packages, and Gymnasium's registry."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

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

from trpo_cli.cli.command_line import CommandLine, read_list
from trpo_cli.config.groups import CONF, GROUPS
from trpo_cli.config.plugins import configurations, import_plugins
from trpo_cli.config.sections import WHERE, check_sections, drop_sections, find_bases, select_sections
from trpo_cli.config.yaml_files import SLIPPED, describe_slip, read_option
from trpo_cli.errors import ConfigError, UserError
from trpo_cli.shell import short_path

SCHEME = "gymnasium"
GROUP = "env/"
TUNED = "tuned/"


class GymnasiumSource(ConfigSource):
    """Serves `env=ID` for every registered environment: `env/gym.yaml`, its sections for this id, and the id itself.

    The path after the scheme lists packages to import first, which may register some. It is passed by value to
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
        id = config_path.removeprefix(GROUP)
        if id == config_path or WHERE in id:
            return False
        if (CONF / "tuned" / f"{id}.yaml").is_file():  # Gymnasium, which takes a while to import, knows these
            return True
        from trpo_cli.envs.registered import is_registered

        self._import()
        return is_registered(id)

    def load_config(self, config_path: str) -> ConfigResult:
        id = config_path.removeprefix(GROUP)
        sections = f"/env/gym{WHERE}env={id}@_global_"
        config = OmegaConf.create({"defaults": ["/env/gym@_here_", "_self_", sections], "id": id})
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
    """Serves files as Hydra does, and their sections; explains mistakes in them in our own words.

    The path `tuned/Ant-v4 where algo=trpo` stands for the sections of a file that hold beside these choices. The class
    has the name of Hydra's own: the processes of a launcher receive this one, and refuse two names for a scheme.
    """

    def is_config(self, config_path: str) -> bool:
        name, where, choices = config_path.partition(WHERE)
        if not super().is_config(name):
            return False
        optional = where and name.startswith(TUNED)  # a directory of the user's may have what ours lacks
        return not optional or bool(self._sections(name, choices))

    def load_config(self, config_path: str) -> ConfigResult:
        name, where, choices = config_path.partition(WHERE)
        if where:
            return ConfigResult(self.provider, self.full_path(), self._sections(name, choices), {"package": "_global_"})
        content, header = self._read(name)
        return ConfigResult(self.provider, self.full_path(), drop_sections(content), header)

    def _sections(self, name: str, choices: str) -> DictConfig:
        content, _ = self._read(name)
        found = select_sections(content, choices)
        if names := find_bases(content):
            found["defaults"] = [*(f"{self._path(base, name)}{WHERE}{choices}" for base in names), "_self_"]
        return found

    def _path(self, base: str, name: str) -> str:
        """Return the path of an option that another builds on: in the same folder, or at the top of the group."""
        beside = f"{name.rpartition('/')[0]}/{base}"
        group = name.partition("/")[0]
        return base if base.startswith("/") else f"/{beside if super().is_config(beside) else f'{group}/{base}'}"

    def _read(self, name: str) -> tuple[dict[Any, Any], dict[str, str | None]]:
        path = Path(self.path, self._normalize_file_name(name))
        try:
            text, content = read_option(path.read_bytes())
            check_sections(content)
            return content, self._get_header_dict(text)
        except SLIPPED as error:
            raise ConfigError(f"{short_path(path)}{describe_slip(error)}") from error


def write_choices(*without: str, _root_: DictConfig) -> str:
    """Write out what is chosen, `algo=trpo env=Hopper-v4 ...`, for all groups of a run but those `without`.

    Hydra resolves `${choices:}` within a list of defaults against all choices made so far.
    """
    made: Any = OmegaConf.to_container(_root_)
    return " ".join(
        f"{group}={option}"
        for group, option in sorted(made.items())
        if group.partition("/")[0] in GROUPS and "@" not in group and isinstance(option, str) and group not in without
    )


OmegaConf.register_new_resolver("choices", write_choices, replace=True)
OmegaConf.register_new_resolver("choices_without", write_choices, replace=True)


class OurSearchPath(SearchPathPlugin):
    """Appends these places to our own configuration; the registry comes last, so that any YAML file precedes it."""

    said: ClassVar[CommandLine | None] = None  # Hydra makes the instances

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        config_dir, overrides = (self.said.config_dir, self.said.overrides) if self.said else (None, [])
        for place in [*([config_dir] if config_dir else []), *read_list("hydra.searchpath", overrides)]:
            search_path.append("command-line", place if "://" in place else f"file://{Path(place).resolve()}")
        for folder in configurations():
            search_path.append("announced", f"file://{folder}")
        search_path.append("registry", f"{SCHEME}://{','.join(read_list('plugins', overrides))}")


@contextlib.contextmanager
def search_everywhere(said: CommandLine) -> Iterator[None]:
    """Have Hydra search all these places for the duration of a command line."""
    for plugin in (GymnasiumSource, OurSearchPath):
        Plugins.instance().register(plugin)
    SourcesRegistry.instance().types[FileConfigSource.scheme()] = FileConfigSource  # in place of Hydra's
    before, OurSearchPath.said = OurSearchPath.said, said
    try:
        yield
    finally:
        OurSearchPath.said = before


def sketch(said: CommandLine) -> DictConfig | None:
    """Compose the options that a command line chooses, ignoring its keys; None if they do not compose.

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
        with search_everywhere(said), initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("train", [f"{key}={name}" for key, name in chosen.items()], return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, UserError):
        return None
    finally:
        one.hydra = in_use
