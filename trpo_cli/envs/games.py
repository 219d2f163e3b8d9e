"""Packages of games, whose ids are registered when one is asked for. Nothing here imports Gymnasium before that."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from trpo_cli.envs.atari.names import OF_ATARI, PACKAGE
from trpo_cli.errors import ConfigError

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec


class Games(NamedTuple):
    """A package with environments, which all show images, or all show only a part of their state."""

    module: str
    extra: str  # of ours, which installs it, and the option of env with the settings of all its games
    ids: re.Pattern[str]
    register: Callable[[], None]
    side: int | None  # the shorter one of the images, in pixels; None: a policy has to remember what it saw

    @property
    def is_installed(self) -> bool:
        return find_spec(self.module) is not None

    def add(self) -> None:
        """Register its environments, once. Raises `ConfigError` if the package cannot be imported."""
        import gymnasium

        if not any(map(self.ids.match, gymnasium.registry)):
            try:
                self.register()
            except ImportError as error:  # of a library of the system that it needs
                raise ConfigError(f"env: the package {self.module} cannot be imported: {error}") from error


def _register_minatar() -> None:
    """Register what `minatar.gym.register_envs` does, without importing what it draws with, which takes seconds."""
    import gymnasium

    for game in ("asterix", "breakout", "freeway", "seaquest", "space_invaders"):
        for version, minimal in enumerate((False, True)):
            gymnasium.register(
                f"MinAtar/{game.title().replace('_', '')}-v{version}",
                "minatar.gym:BaseEnv",
                kwargs={"game": game, "use_minimal_action_set": minimal},
            )


def _register_atari() -> None:
    """Register the games of ale-py, and keep it from printing its name."""
    import ale_py
    import gymnasium

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    gymnasium.register_envs(ale_py)


def _register_popgym() -> None:
    """Register what is there on import."""
    importlib.import_module("popgym")


PACKAGES = (
    Games(PACKAGE, "atari", OF_ATARI, _register_atari, 84),
    Games("minatar", "minatar", re.compile("MinAtar/"), _register_minatar, 10),
    Games("popgym", "popgym", re.compile("popgym-"), _register_popgym, None),
)


def find_package(id: str) -> Games | None:
    """Return the package to which an environment belongs, by its id alone; None if it belongs to none."""
    return next((package for package in PACKAGES if package.ids.match(id)), None)


def find_origin(spec: EnvSpec) -> Games | None:
    """Return the package that has registered an environment, which may have any id; None if it is none of games."""
    return next((package for package in PACKAGES if str(spec.entry_point).startswith(f"{package.module}.")), None)


def register_game(id: str) -> None:
    """Register the package to which an environment belongs, if it does. Raises `ConfigError` if that is missing."""
    package = find_package(id)
    if package is None:
        return
    if not package.is_installed:
        raise ConfigError(
            f"env: {id} belongs to the package {package.module}, which is not installed; "
            f"pip install 'trpo-cli[{package.extra}]' installs it"
        )
    package.add()


def register_installed() -> None:
    """Register all packages that are installed."""
    for package in PACKAGES:
        if package.is_installed:
            package.add()
