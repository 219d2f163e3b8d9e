"""What lies where in a run directory, and what may lie there: it could come from a stranger."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from trpo_cli.config.moved import with_current_targets
from trpo_cli.config.yaml_files import SLIPPED, decoded, parsed, slip
from trpo_cli.errors import RunDirectoryError, nearest

CONFIG, METRICS, SUMMARY, LOG = "config.yaml", "metrics.csv", "summary.json", "train.log"
HEADLINE = "headline.txt"  # the column of the metrics that says how good the policy is
WHOLE = "all_rows.json"  # of an archived run, which lacks rows
CHECKPOINTS, TENSORBOARD = "checkpoints", "tensorboard"
FOLDERS = (CHECKPOINTS, TENSORBOARD)
SWEEP = "sweep.status.json"  # in the directory of a sweep
ENDED_EARLY = "the run ended early"  # how the last record of a failed run's log begins
KINDS = {"env": dict, "policy": dict, "seed": int, "total_steps": int, "choices": dict, "plugins": list}
LARGEST_CONFIG = 1_000_000  # bytes
DEEPEST = 50  # levels of it


def read_config(directory: Path) -> dict[str, Any]:
    """The configuration of a run: plain values.

    Raises `RunDirectoryError` if there is none that can be read, or it is more than plain values.
    """
    path = directory / CONFIG
    if not path.is_file():
        raise RunDirectoryError(f"{directory} is no run directory: it has no {CONFIG}{near(directory)}")
    refuse_links(directory)
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise ValueError("it is too large for a configuration")
        text = decoded(path.read_bytes())
        if "*" in text and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise ValueError("it has aliases, which could stand for more than fits into memory")
        node: Any = parsed(text, yaml.SafeLoader)
        _refuse_strange(node)
    except (*SLIPPED, OSError) as error:
        raise RunDirectoryError(f"{path}{slip(error)}") from error
    if (
        not isinstance(node, dict)
        or not {"env", "policy", "seed", "choices"} <= node.keys()
        or any(not isinstance(node[key], kind) for key, kind in KINDS.items() if key in node)
    ):
        raise RunDirectoryError(f"{path} is not the configuration of a run")
    current: dict[str, Any] = with_current_targets(node)
    return current


def _refuse_strange(node: Any, depth: int = 0) -> None:
    """Raise `ValueError` for what no configuration holds, at or below `node`: other values, keys or depths."""
    if depth > DEEPEST:
        raise ValueError("it is nested too deeply for a configuration")
    if not isinstance(node, dict | list | str | int | float | None):
        raise ValueError(f"it holds a {type(node).__name__}, and a configuration has plain values only")
    if isinstance(node, dict) and (wrong := [key for key in node if not isinstance(key, str | int | float)]):
        raise ValueError(f"the key {wrong[0]!r} is no name")
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _refuse_strange(inner, depth + 1)


def near(directory: Path) -> str:
    """A hint at the run that may have been meant: one around this place, the newest below it, or one beside it."""
    above = directory.parents if directory.exists() else ()
    if around := next((up for up in above if up != Path() and (up / CONFIG).is_file()), None):
        return f"; did you mean '{around}'?"
    below = [path for pattern in ("*", "*/*", "*/*/*") for path in directory.glob(f"{pattern}/{CONFIG}")]
    if below:
        return f"; the newest below it is '{max(below, key=lambda path: path.stat().st_mtime).parent}'"
    beside = directory.parent.is_dir() and not directory.exists()
    names = [path.name for path in directory.parent.iterdir() if path.is_dir()] if beside else []
    return nearest(directory.name, names, "" if directory.parent == Path() else f"{directory.parent}/")


def refuse_links(directory: Path) -> None:
    """Raise `RunDirectoryError` if anything that a run reads or writes in `directory` is not a plain file or directory.

    A link in a directory from a stranger would have us write to wherever it leads.
    """
    files = [directory / name for name in (CONFIG, METRICS, HEADLINE, SUMMARY, LOG, WHOLE)]
    folders = [directory / name for name in FOLDERS]
    for path in (*files, *folders, *(path for folder in folders for path in _listed(folder))):
        with contextlib.suppress(FileNotFoundError):
            mode = path.lstat().st_mode
            if not (stat.S_ISDIR(mode) if path in folders else stat.S_ISREG(mode)):
                what = "a link" if stat.S_ISLNK(mode) else "no plain file or directory"
                raise RunDirectoryError(f"{path} is {what}, and is left alone: a run holds its files itself")


@contextlib.contextmanager
def fitting(directory: Path) -> Iterator[None]:
    """Whatever a checkpoint that does not fit the configuration beside it raises is a `RunDirectoryError`."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        raise RunDirectoryError(
            f"{relative(directory)}: its checkpoint does not fit its {CONFIG}: {type(error).__name__}: {error}"
        ) from error


def _listed(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def plain(text: str) -> str:
    """`text` as the name of a directory on any machine."""
    return re.sub(r"[^\w.,=+-]", "_", text.replace("/", "."), flags=re.ASCII)


def quoted(key: str, path: Path) -> str:
    """`KEY` and `path` as a shell takes them."""
    return shlex.quote(f"{key}{relative(path)}")


def command(name: str, plugins: Sequence[str] = ()) -> str:
    """How a command of this installation is typed, one that imports `plugins` where they were found.

    That is its name, or its path where a shell would not find it, or find another one.
    """
    ours, found, searched = Path(sys.executable).with_name(name), shutil.which(name), os.environ.get("PYTHONPATH")
    before = f"PYTHONPATH={shlex.quote(searched)} " if plugins and searched else ""
    by_name = not ours.exists() or (found is not None and ours.samefile(found))
    return f"{before}{name if by_name else quoted('', ours)}"


def relative(path: Path) -> Path:
    """`path` from where the command was typed, if it lies below that."""
    return path.relative_to(home()) if path.is_relative_to(home()) else path


def home() -> Path:
    """Where the command was typed, wherever an environment or Hydra has gone since."""
    return _homes[-1] if _homes else Path.cwd()


@contextlib.contextmanager
def typed_in(place: Path) -> Iterator[None]:
    """Within it `place` is `home()`. At its end the process is back in the directory where it was before."""
    before = os.open(".", os.O_RDONLY)  # which may have been deleted: a path would not do
    _homes.append(place)
    try:
        yield
    finally:
        _homes.pop()
        os.fchdir(before)
        os.close(before)


def staying() -> contextlib.AbstractContextManager[None]:
    """At its end the process is back in the directory where it was before."""
    return typed_in(home())


_homes: list[Path] = []  # of commands that are running, the innermost last
