"""The files of a run directory, and the checks that reading an untrusted one needs."""

from __future__ import annotations

import contextlib
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from trpo_cli.config.moved import update
from trpo_cli.config.yaml_files import SLIPPED, decode, describe_slip, parse
from trpo_cli.errors import RunDirectoryError, did_you_mean
from trpo_cli.shell import short_path

CONFIG, METRICS, SUMMARY, LOG = "config.yaml", "metrics.csv", "summary.json", "train.log"
HEADLINE = "headline.txt"  # the column of the metrics that says how good the policy is
ALL_ROWS = "all_rows.json"  # of an archived run, whose metrics.csv lacks rows
FILES = (CONFIG, METRICS, HEADLINE, SUMMARY, LOG, ALL_ROWS)
CHECKPOINTS, TENSORBOARD = "checkpoints", "tensorboard"
NEWEST, BEST = "newest", "best"  # names of checkpoints; the latter is also the folder in `checkpoints/` that holds it
FOLDERS = (CHECKPOINTS, f"{CHECKPOINTS}/{BEST}", TENSORBOARD)
SWEEP = "sweep.status.json"  # in the directory of a sweep
ENDED_EARLY = "the run ended early"  # prefix of the last record in the log of a failed run
KINDS = {"env": dict, "policy": dict, "seed": int, "total_steps": int, "choices": dict, "plugins": list}
LARGEST_CONFIG = 1_000_000  # bytes
MISMATCHES = (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError)
DEEPEST = 50  # levels of nesting in a configuration


def read_config(directory: Path) -> dict[str, Any]:
    """The configuration of a run, made of plain values. Those of earlier versions lack keys: see `settings.LATER`.

    Raises `RunDirectoryError` if it is missing, unreadable, or holds anything but plain values.
    """
    path = directory / CONFIG
    if not path.is_file():
        raise RunDirectoryError(f"{directory} is not a run directory, since it has no {CONFIG}{suggest_run(directory)}")
    refuse_links(directory)
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise ValueError("the file is too large for a configuration")
        text = decode(path.read_bytes())
        if "*" in text and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise ValueError("it has YAML aliases, which could expand to more than fits into memory")
        node: Any = parse(text, yaml.SafeLoader)
        _refuse_unknown_values(node)
    except (*SLIPPED, OSError) as error:
        raise RunDirectoryError(f"{path}{describe_slip(error)}") from error
    if (
        not isinstance(node, dict)
        or not {"env", "policy", "seed", "choices"} <= node.keys()
        or any(not isinstance(node[key], kind) for key, kind in KINDS.items() if key in node)
    ):
        raise RunDirectoryError(f"{path} is not the configuration of a run")
    current: dict[str, Any] = update(node)
    return current


def _refuse_unknown_values(node: Any, depth: int = 0) -> None:
    """Raise `ValueError` if a type, key or depth at or below `node` cannot occur in a configuration."""
    if depth > DEEPEST:
        raise ValueError("it is nested too deeply for a configuration")
    if not isinstance(node, dict | list | str | int | float | None):
        raise ValueError(f"it holds a {type(node).__name__}, but a configuration has plain values only")
    if isinstance(node, dict) and (wrong := [key for key in node if not isinstance(key, str | int | float)]):
        raise ValueError(f"the key {wrong[0]!r} is not a name")
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _refuse_unknown_values(inner, depth + 1)


def suggest_run(directory: Path) -> str:
    """A hint at the intended run: one that contains `directory`, the newest below it, or one with a similar name."""
    above = directory.parents if directory.exists() else ()
    if around := next((up for up in above if up != Path() and (up / CONFIG).is_file()), None):
        return f"; did you mean '{around}'?"
    below = [path for pattern in ("*", "*/*", "*/*/*") for path in directory.glob(f"{pattern}/{CONFIG}")]
    if below:
        return f"; the newest run below it is '{max(below, key=lambda path: path.stat().st_mtime).parent}'"
    beside = directory.parent.is_dir() and not directory.exists()
    names = [path.name for path in directory.parent.iterdir() if path.is_dir()] if beside else []
    return did_you_mean(directory.name, names, "" if directory.parent == Path() else f"{directory.parent}/")


def refuse_links(directory: Path) -> None:
    """Raise `RunDirectoryError` if anything that a run reads or writes is not a regular file or directory.

    Writing through a link in an untrusted directory could overwrite any file.
    """
    files = [directory / name for name in FILES]
    folders = [directory / name for name in FOLDERS]
    for path in (*files, *folders, *(path for folder in folders for path in _entries(folder))):
        with contextlib.suppress(FileNotFoundError):
            mode = path.lstat().st_mode
            if not (stat.S_ISDIR(mode) if path in folders else stat.S_ISREG(mode)):
                what = "a link" if stat.S_ISLNK(mode) else "not a regular file or directory"
                raise RunDirectoryError(f"{path} is {what}; for safety, a run uses only files inside its directory")


@contextlib.contextmanager
def report_mismatch(directory: Path, key: str = "") -> Iterator[None]:
    """Raise `RunDirectoryError` for any error of a checkpoint that does not match the configuration next to it.

    The message begins with the `key` that names the run, if one does.
    """
    try:
        yield
    except MISMATCHES as error:
        part = "".join(f"the {name} of " for name in getattr(error, "__notes__", ()))
        where = f"{key and f'{key}: '}{short_path(directory)}"
        reason = f"{type(error).__name__}: {error}"
        raise RunDirectoryError(f"{where}: {part}the checkpoint does not match {CONFIG}: {reason}") from error


@contextlib.contextmanager
def name_part(name: str) -> Iterator[None]:
    """Have `report_mismatch`, further out, tell of which part of the checkpoint the state does not match."""
    try:
        yield
    except MISMATCHES as error:
        error.add_note(name)
        raise


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def directory_name(text: str) -> str:
    """`text` with every character replaced that some file systems do not allow in names."""
    return re.sub(r"[^\w.,=+-]", "_", text.replace("/", "."), flags=re.ASCII)
