"""Files that appear complete or not at all, even if the power fails."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write(path: Path, data: bytes | bytearray) -> None:
    """Write `data` to a temporary file, sync it, move it to `path`, and sync the directory. Raises `OSError`."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        _write(temporary, data)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError:
        with contextlib.suppress(OSError):  # gone already, or as impossible as the rest
            os.unlink(temporary)
        raise


def publish(folder: Path, place: Path) -> None:
    """Sync everything in `folder`, move it to `place`, where there is nothing, and sync the directory above.

    Raises `OSError`.
    """
    for path in (*folder.rglob("*"), folder):
        _sync(path)
    os.rename(folder, place)
    _sync(place.parent)


def _write(path: Path, data: bytes | bytearray) -> None:
    """Write a new file. A link at `path` is replaced, never followed."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(file, left) :]
        os.fsync(file)
    finally:
        os.close(file)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
