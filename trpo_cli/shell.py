"""Paths and commands as the user types them, relative to the directory in which the command was started."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path


def shell_argument(key: str, path: Path) -> str:
    """`KEY` followed by `path`, quoted for a shell."""
    return shlex.quote(f"{key}{short_path(path)}")


def shell_command(name: str, plugins: Sequence[str] = ()) -> str:
    """How to type the command `name` of this installation; with `plugins`, PYTHONPATH comes first if it is set.

    This is the bare name, or the full path if a shell would find no such command or another one.
    """
    ours, found, searched = Path(sys.executable).with_name(name), shutil.which(name), os.environ.get("PYTHONPATH")
    before = f"PYTHONPATH={shlex.quote(searched)} " if plugins and searched else ""
    by_name = not ours.exists() or (found is not None and ours.samefile(found))
    return f"{before}{name if by_name else shell_argument('', ours)}"


def short_path(path: Path) -> Path:
    """`path` relative to `start_directory()` if it lies below it; otherwise unchanged."""
    return path.relative_to(start_directory()) if path.is_relative_to(start_directory()) else path


def start_directory() -> Path:
    """The directory in which the command was started, even if Hydra or an environment has changed directory since."""
    return _start_directories[-1] if _start_directories else Path.cwd()


@contextlib.contextmanager
def started_in(directory: Path) -> Iterator[None]:
    """Make `directory` the `start_directory()`; on exit, return to the working directory of before."""
    before = os.open(".", os.O_RDONLY)  # not a path, since the directory may have been deleted
    _start_directories.append(directory)
    try:
        yield
    finally:
        _start_directories.pop()
        os.fchdir(before)
        os.close(before)


def keep_working_directory() -> contextlib.AbstractContextManager[None]:
    """On exit, return to the working directory of before."""
    return started_in(start_directory())


_start_directories: list[Path] = []  # of the commands that are running, innermost last
