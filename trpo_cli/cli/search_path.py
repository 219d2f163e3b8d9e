"""Where else Hydra looks for options: `--config-dir`, packages that announce themselves, and Gymnasium's registry."""

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
from trpo_cli.cli.fitting_network import NETWORKS, find_critic, find_network, without_making
from trpo_cli.config.groups import CONF, GROUPS
from trpo_cli.config.plugins import find_configurations, import_plugins
from trpo_cli.config.sections import WHERE, drop_sections, find_bases, find_mistake, select_sections
from trpo_cli.config.yaml_files import SLIPPED, describe_slip, find_top_key, read_option
from trpo_cli.envs.games import find_origin, find_package
from trpo_cli.errors import ConfigError, UserError
from trpo_cli.shell import short_path

SCHEME = "gymnasium"
GROUP = "env/"
TUNED = "tuned/"


class GymnasiumSource(ConfigSource):
    """Serves `env=ID` for every registered environment: `env/gym.yaml`, its sections for this id, and the id itself.

    For a game of Atari or MinAtar it is `env/atari.yaml` or `env/minatar.yaml`, and `tuned/ID where CHOICES` means the
    sections of that, unless the game has some of its own. The path after the scheme lists packages to import first,
    since they may register environments. The processes of a launcher receive this class by value, and it needs nothing
    else there.
    """

    @staticmethod
    def scheme() -> str:
        return SCHEME

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return config_path == GROUP.rstrip("/")

    def is_config(self, config_path: str) -> bool:
        name, where, _ = config_path.partition(WHERE)
        if where:
            return name.startswith(TUNED) and self._find_family(name.removeprefix(TUNED)) is not None
        id = name.removeprefix(GROUP)
        return id != name and (self._is_tuned(id) or self._is_registered(id))

    def load_config(self, config_path: str) -> ConfigResult:
        name, where, choices = config_path.partition(WHERE)
        if where:
            family = self._find_family(name.removeprefix(TUNED))
            config: dict[str, Any] = {"defaults": [f"/env/{family}{WHERE}{choices}@_global_"]}
            return ConfigResult(self.provider, self.full_path(), OmegaConf.create(config), {"package": "_global_"})
        id = name.removeprefix(GROUP)
        family = self._find_family(id)
        given = [f"/env/{family or 'gym'}@_here_", "_self_"]
        if family is None:
            given.append(f"/env/gym{WHERE}env={id}@_global_")
        config = {"defaults": given, "id": id}
        return ConfigResult(self.provider, self.full_path(), OmegaConf.create(config), {"package": None})

    def _find_family(self, id: str) -> str | None:
        """Return the option of `env` for all games of the package that has this one; None if it is no game."""
        package = find_package(id)
        if (package is None and self._is_tuned(id)) or not self._is_registered(id):
            return None
        if package is None:
            import gymnasium

            package = find_origin(gymnasium.registry[id])
        return package and package.extra

    def _is_tuned(self, id: str) -> bool:
        """Whether this package has settings for a task, which therefore exists; to import Gymnasium is slow."""
        return (CONF / "tuned" / f"{id}.yaml").is_file()

    def _is_registered(self, id: str) -> bool:
        from trpo_cli.envs.registered import is_registered

        self._import()
        return is_registered(id)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if results_filter is ObjectType.GROUP or not self.is_group(config_path):
            return []
        from trpo_cli.envs.registered import registered_ids

        self._import()
        return registered_ids()

    def _import(self) -> None:
        import_plugins([name for name in self.path.split(",") if name])


class FileConfigSource(file_config_source.FileConfigSource):
    """Serves files as Hydra does, and their sections, with clear messages for mistakes in them.

    The path `tuned/Ant-v4 where algo=trpo` means the sections of a file that apply with these choices. The class has
    the name of Hydra's class because the processes of a launcher receive this one, and reject two names for a scheme.
    """

    places: ClassVar[list[Path]] = []  # every directory searched; empty in those processes, which check no names again

    def is_config(self, config_path: str) -> bool:
        name, where, choices = config_path.partition(WHERE)
        if not super().is_config(name):
            return False
        optional = where and name.startswith(TUNED)  # the file may exist in only some directories
        return not optional or bool(self._load_sections(name, choices))

    def load_config(self, config_path: str) -> ConfigResult:
        name, where, choices = config_path.partition(WHERE)
        if where:
            return ConfigResult(
                self.provider, self.full_path(), self._load_sections(name, choices), {"package": "_global_"}
            )
        content, header = self._read(name)
        return ConfigResult(self.provider, self.full_path(), drop_sections(content), header)

    def _load_sections(self, name: str, choices: str) -> DictConfig:
        content, _ = self._read(name)
        found = select_sections(content, choices)
        if names := find_bases(content):
            found["defaults"] = [*(f"{self._find_base(base, name)}{WHERE}{choices}" for base in names), "_self_"]
        return found

    def _find_base(self, base: str, name: str) -> str:
        """Return the path of an option that `name` builds on: in the same folder, or at the top of the group."""
        beside = f"{name.rpartition('/')[0]}/{base}"
        group = name.partition("/")[0]
        return base if base.startswith("/") else f"/{beside if super().is_config(beside) else f'{group}/{base}'}"

    def _read(self, name: str) -> tuple[dict[Any, Any], dict[str, str | None]]:
        path = Path(self.path, self._normalize_file_name(name))
        data = path.read_bytes()
        try:
            text, content = read_option(data)
            header = self._get_header_dict(text)
        except SLIPPED as error:
            raise ConfigError(f"{short_path(path)}{describe_slip(error)}") from error
        if mistake := find_mistake(name.strip("/"), content, self.places):
            key, problem = mistake
            raise ConfigError(f"{short_path(path)}{find_top_key(data, key)}: '{key}': {problem}")
        return content, header


def write_choices(*without: str, _root_: DictConfig) -> str:
    """Write the choices of all groups of a run except those in `without`: `algo=trpo env=Hopper-v4 ...`.

    Hydra resolves `${choices:}` within a list of defaults against all choices made so far.
    """
    made: Any = OmegaConf.to_container(_root_)
    for default in filter(
        OmegaConf.is_dict, _root_.defaults
    ):  # those that are interpolations are not among the choices
        made |= {group: default[group] for group in default if group in NETWORKS and group not in made}
    return " ".join(
        f"{group}={option}"
        for group, option in sorted(made.items())
        if group.partition("/")[0] in GROUPS and "@" not in group and isinstance(option, str) and group not in without
    )


def choose_critic(env: Any, algo: Any, *, _root_: DictConfig) -> str:
    """Return the option of `critic` that goes with these, and with the policy if one was chosen."""
    return find_critic(env, algo, _root_.get("policy"))


OmegaConf.register_new_resolver("choices", write_choices, replace=True)
OmegaConf.register_new_resolver("choices_without", write_choices, replace=True)
OmegaConf.register_new_resolver("network_for", find_network, replace=True)
OmegaConf.register_new_resolver("critic_for", choose_critic, replace=True)


class OurSearchPath(SearchPathPlugin):
    """Appends these places to the search path; the registry comes last, so that any YAML file takes precedence."""

    typed: ClassVar[CommandLine | None] = None  # on the class, since Hydra makes the instances

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        config_dir, overrides = (self.typed.config_dir, self.typed.overrides) if self.typed else (None, [])
        for place in [*([config_dir] if config_dir else []), *read_list("hydra.searchpath", overrides)]:
            search_path.append("command-line", place if "://" in place else f"file://{Path(place).resolve()}")
        for folder in find_configurations():
            search_path.append("announced", f"file://{folder}")
        paths = [element.path.removeprefix("file://") for element in search_path.get_path()]
        FileConfigSource.places = [Path(path) for path in paths if "://" not in path]
        search_path.append("registry", f"{SCHEME}://{','.join(read_list('plugins', overrides))}")


@contextlib.contextmanager
def search_everywhere(typed: CommandLine) -> Iterator[None]:
    """Let Hydra search all these places within the context."""
    for plugin in (GymnasiumSource, OurSearchPath):
        Plugins.instance().register(plugin)
    SourcesRegistry.instance().types[FileConfigSource.scheme()] = FileConfigSource  # replaces Hydra's
    before, OurSearchPath.typed = OurSearchPath.typed, typed
    try:
        yield
    finally:
        OurSearchPath.typed = before


def compose_options(typed: CommandLine) -> DictConfig | None:
    """Compose the options that a command line chooses, ignoring its keys; None if they do not compose.

    Options for parts that the algorithm does not have are ignored.
    """
    words = (text.partition("=")[::2] for text in typed.overrides)
    first = ((key, values.partition(",")[0]) for key, values in words)  # the first value of a sweep
    chosen = {key: name for key, name in first if key.partition("/")[0] in GROUPS and re.fullmatch(r"[\w./-]+", name)}
    whole = {key: name for key, name in chosen.items() if key in GROUPS}
    return _try_to_compose(typed, chosen) or _try_to_compose(typed, whole)


def _try_to_compose(typed: CommandLine, chosen: Mapping[str, str]) -> DictConfig | None:
    one, in_use = GlobalHydra.instance(), GlobalHydra.instance().hydra  # a sweep may be using it
    one.clear()
    try:
        with search_everywhere(typed), without_making(), initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("train", [f"{key}={name}" for key, name in chosen.items()], return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, UserError):
        return None
    finally:
        one.hydra = in_use
