"""New files and folders that a command writes: checked before any work, and complete or absent after it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from trpo_cli.errors import UserError
from trpo_cli.run import durable
from trpo_cli.run.layout import CHECKPOINTS, CONFIG, FILES, TENSORBOARD
from trpo_cli.shell import short_path, start_directory

SUFFIXES = {"--video": ".mp4", "--onnx": ".onnx", "--torchscript": ".pt", "--pt2": ".pt2"}


def check_targets(targets: Mapping[str, Path]) -> None:
    """Raise `UserError` unless what each option names is new, fits its format, and can be written."""
    places: dict[str, Path] = {}
    for option, path in targets.items():
        _refuse_existing(option, path)
        if path.suffix != SUFFIXES.get(option, path.suffix):
            raise UserError(f"{option}: got {path}, but its name has to end in {SUFFIXES[option]}")
        place = path.resolve()
        for other, taken in places.items():
            if place == taken or place in taken.parents or taken in place.parents:
                raise UserError(f"{option}: {path} does not go with {other} {targets[other]}; write them side by side")
        places[option] = place
        for folder in place.parents:
            own = place.relative_to(folder).parts[0] in (*FILES, CHECKPOINTS, TENSORBOARD)
            if own and (folder / CONFIG).is_file():
                raise UserError(f"{option}: got {path}, but the run {short_path(folder)} keeps its own files there")
        _try_to_write(option, path)


def write_new(option: str, path: Path, data: bytes) -> None:
    """Write a file that appears complete or not at all. Raises `UserError` if there is one, or it cannot be written."""
    place = start_directory() / path
    _refuse_existing(option, path)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        durable.write(place, data)
    except OSError as error:
        raise _unwritable(option, path, error) from error


def _refuse_existing(option: str, path: Path) -> None:
    if os.path.lexists(start_directory() / path):
        raise UserError(f"{option}: {path} already exists and is not overwritten")


def _try_to_write(option: str, path: Path) -> None:
    """Write a file without a name where `path` will be, or where its folders will be."""
    above = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    try:
        tempfile.TemporaryFile(dir=above).close()
    except OSError as error:
        raise _unwritable(option, path, error) from error


def _unwritable(option: str, path: Path, error: OSError) -> UserError:
    return UserError(f"{option}: {path} cannot be written: {error.strerror}")
