"""Files that appear whole or not at all, also where the power is cut."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write(path: Path, data: bytes | bytearray) -> None:
    """Put `data` at `path`: written beside its place, synced, moved there, and the directory synced."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        _write(temporary, data)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError:
        with contextlib.suppress(OSError):  # gone already, or refused like the rest
            os.unlink(temporary)
        raise


def _write(path: Path, data: bytes | bytearray) -> None:
    """A new file, never through a link that someone put there."""
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


def _sync(directory: Path) -> None:
    file = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
