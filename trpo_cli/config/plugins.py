"""Code and configuration from outside this package: packages named in `plugins`, and those that announce themselves.

An installed package announces itself with an entry point of the group `trpo_cli.plugins`, whose value is the name of
the package. Whoever installed it trusts it, so parts may be built from it; it is imported only once something asks for
what nobody else has. Its folder `conf` is searched for options.
"""

from __future__ import annotations

import importlib
import sys
import sysconfig
import traceback
from collections.abc import Sequence
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from trpo_cli.errors import ConfigError

ENTRY_POINTS = "trpo_cli.plugins"
LIBRARIES = (*map(sysconfig.get_path, ("stdlib", "purelib", "platlib")), str(Path(__file__).parent.parent))
"""Where code lies that is not the user's."""


def announced() -> list[str]:
    """The installed packages that announce themselves; none is imported."""
    return sorted({entry.module for entry in entry_points(group=ENTRY_POINTS)})


def configurations() -> list[Path]:
    """The folders `conf` of the packages that announce themselves; none is imported."""
    folders = []
    for package in announced():
        top, *inner = package.split(".")
        spec = find_spec(top)  # of the package within it, it would import the one around it
        for place in (spec and spec.submodule_search_locations) or ():
            folders.append(Path(place, *inner, "conf"))
    return [folder for folder in folders if folder.is_dir()]


def import_plugins(plugins: Sequence[str]) -> None:
    """Import the user's packages, which may register environments. Raises `ConfigError` for one that cannot be."""
    for name in plugins:
        if not all(part.isidentifier() for part in name.split(".")) or name.endswith(".py"):
            module = Path(name).stem if name.endswith(".py") else "MODULE"
            raise ConfigError(
                f"plugins: '{name}' is no name of a module, which has neither '/' nor '.py' in it; say {module}"
            )
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:
            top = name.partition(".")[0]
            missing = isinstance(error, ModuleNotFoundError) and error.name == top
            raise ConfigError(f"plugins: {_not_there(top) if missing else _raised(name, error)}") from error


def _not_there(top: str) -> str:
    """Explain a module that is not on the Python path."""
    near = next((path for pattern in (top, f"*/{top}") for path in _modules(pattern)), None)
    where = near.parent if near else "DIR"
    what = f"{near} is not on the Python path" if near else "the directory of one of your own has to be named"
    return f"no module '{top}' is installed; {what}: PYTHONPATH={where} {Path(sys.argv[0]).name} ..."


def _modules(pattern: str) -> list[Path]:
    """Find modules of this name, files or packages, in the working directory."""
    return sorted([*Path().glob(f"{pattern}.py"), *(path.parent for path in Path().glob(f"{pattern}/__init__.py"))])


def _raised(name: str, error: BaseException) -> str:
    """Explain a failed import, with the line of the user's code that raised."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"'{name}' cannot be imported: {error.filename}, line {error.lineno}: SyntaxError: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(("<", *LIBRARIES))]
    installed = [frame for frame in frames if "site-packages" in frame.filename]
    place = next((f"{frame.filename}, line {frame.lineno}: " for frame in reversed(own or installed)), "")
    return f"'{name}' cannot be imported: {place}{type(error).__name__}: {error}"
