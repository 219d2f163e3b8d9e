"""Code and configuration from outside this package: packages named in `plugins`, and those that announce themselves.

An installed package announces itself with an entry point in the group `trpo_cli.plugins`, whose value is the name of
the package. Installing it means trusting it, so parts may be built from it. It is imported only when something that
nothing else provides is requested. Its folder `conf` is searched for options.
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
"""Directories with code that is not the user's."""
EXTRAS = {"gymnasium_robotics": "robotics"}
"""Our extras that install a module with environments, by its name."""


def find_announced() -> list[str]:
    """List the installed packages that announce themselves, without importing them."""
    return sorted({entry.module for entry in entry_points(group=ENTRY_POINTS)})


def find_configurations() -> list[Path]:
    """List the folders `conf` of the packages that announce themselves, without importing them."""
    folders = []
    for package in find_announced():
        top, *inner = package.split(".")
        spec = find_spec(top)  # finding the inner package would import the outer one
        for place in (spec and spec.submodule_search_locations) or ():
            folders.append(Path(place, *inner, "conf"))
    return [folder for folder in folders if folder.is_dir()]


def import_plugins(plugins: Sequence[str]) -> None:
    """Import the user's packages, which may register environments. Raises `ConfigError` if an import fails."""
    for name in plugins:
        if not all(part.isidentifier() for part in name.split(".")) or name.endswith(".py"):
            module = Path(name).stem if name.endswith(".py") else "MODULE"
            raise ConfigError(
                f"plugins: '{name}' is not the name of a module, which contains neither '/' nor '.py'; write {module}"
            )
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:
            top = name.partition(".")[0]
            missing = isinstance(error, ModuleNotFoundError) and error.name == top
            raise ConfigError(
                f"plugins: {_explain_missing(top) if missing else _explain_import_error(name, error)}"
            ) from error


def _explain_missing(top: str) -> str:
    """Explain a module that is not on the Python path."""
    if top in EXTRAS:
        return f"no module '{top}' is installed; pip install 'trpo-cli[{EXTRAS[top]}]' installs it"
    near = next((path for pattern in (top, f"*/{top}") for path in _find_modules(pattern)), None)
    where = near.parent if near else "DIR"
    what = f"{near} is not on the Python path" if near else "if it is your own, name its directory"
    return f"no module '{top}' is installed; {what}: PYTHONPATH={where} {Path(sys.argv[0]).name} ..."


def _find_modules(pattern: str) -> list[Path]:
    """Find modules of this name, files or packages, in the working directory."""
    return sorted([*Path().glob(f"{pattern}.py"), *(path.parent for path in Path().glob(f"{pattern}/__init__.py"))])


def _explain_import_error(name: str, error: BaseException) -> str:
    """Explain a failed import, with the line of the user's code that raised."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"'{name}' cannot be imported: {error.filename}, line {error.lineno}: SyntaxError: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(("<", *LIBRARIES))]
    installed = [frame for frame in frames if "site-packages" in frame.filename]
    place = next((f"{frame.filename}, line {frame.lineno}: " for frame in reversed(own or installed)), "")
    return f"'{name}' cannot be imported: {place}{type(error).__name__}: {error}"
