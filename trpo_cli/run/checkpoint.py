"""One atomic, verified, pickle-free file, and the directory of a run's last ones.

`packing.py` takes a state apart into tensors, `sealing.py` makes verifiable bytes of them.
"""

from __future__ import annotations

import json
import os
import re
import stat
import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from safetensors import SafetensorError

from trpo_cli.errors import CheckpointError, NewerCheckpointError
from trpo_cli.run import durable, sealing
from trpo_cli.run.packing import pack, unpack

VERSION = 3  # the only one that is read
SUFFIX = ".safetensors"
NAME = re.compile(r"step_([0-9]+)\.safetensors")
TEMPORARY = re.compile(r"\.step_[0-9]+\.safetensors\.tmp")
LARGEST = 16 * 2**30  # bytes; no state comes near
LARGEST_HEADER = 100_000_000  # bytes, as in the safetensors library: a file with holes may claim gigabytes on no disk
KINDS = {stat.S_IFLNK: "symbolic link", stat.S_IFDIR: "directory", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
BROKEN = (  # whatever reading bytes that `save` did not write may raise
    SafetensorError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


class Loaded(NamedTuple):
    """A checkpoint, and the newer ones that were passed over, each with its fault, the newest first."""

    path: Path
    state: dict[str, Any]
    damaged: dict[Path, CheckpointError]


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state`; `packing.pack` says what it may be made of.

    Raises `TypeError` for a state that cannot be held. Raises `CheckpointError` if it cannot be written.
    """
    data = sealing.seal(pack(state), VERSION)
    try:
        durable.write(path, data)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be saved: {_said(error)}; the checkpoints before it are intact"
        ) from error


def load(path: Path) -> dict[str, Any]:
    """The state that `save` wrote. Raises `CheckpointError` if there is no such plain file, or it is damaged.

    Raises `NewerCheckpointError` if a later version of this program wrote it.
    """
    try:
        with _opened(path) as file:
            start, header = _header(file)
            _expect_version(path, int(header["__metadata__"]["version"]))
            _expect_size(file, len(start) + sealing.size(header))
            data = start + file.read()
        return unpack(sealing.unseal(data))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {_said(error)}") from error
    except BROKEN as error:
        raise CheckpointError(f"{path}: is no whole checkpoint: {_said(error)}") from error


def load_newest(directory: Path) -> Loaded:
    """The checkpoint with the most steps of those in `directory` that are whole.

    Raises `NewerCheckpointError` at the first of a newer format, as going on from an older one would overwrite it, and
    `CheckpointError` if none is whole.
    """
    damaged: dict[Path, CheckpointError] = {}
    for path in reversed(listed(directory)):
        try:
            return Loaded(path, load(path), damaged)
        except NewerCheckpointError:
            raise
        except CheckpointError as error:
            damaged[path] = error
    if damaged:
        raise CheckpointError("\n".join([f"{directory}: holds no whole checkpoint", *map(str, damaged.values())]))
    raise CheckpointError(f"{directory}: holds no checkpoint")


def listed(directory: Path) -> list[Path]:
    """Whatever has a checkpoint's name in `directory`, by number of steps. Raises `CheckpointError` if unreadable."""
    found = [(int(match[1]), name) for name in _names(directory) if (match := NAME.fullmatch(name))]
    return [directory / name for _, name in sorted(found)]


def sweep(directory: Path) -> None:
    """Delete what saves that were killed left in `directory`. Raises `CheckpointError` if that is refused."""
    for path in (directory / name for name in _names(directory) if TEMPORARY.fullmatch(name)):
        try:
            if stat.S_ISREG(os.lstat(path).st_mode):
                os.unlink(path)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be removed: {_said(error)}") from error


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(f"{directory}: cannot be read: {_said(error)}") from error


def _opened(path: Path) -> BinaryIO:
    """A plain file of a plausible size: to open anything else may block, or do something."""
    kind = stat.S_IFMT(os.lstat(path).st_mode)
    if kind != stat.S_IFREG:
        raise CheckpointError(f"{path}: is no plain file, but a {KINDS.get(kind, 'device')}")
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
    size = os.fstat(file.fileno()).st_size
    if size > LARGEST:
        file.close()
        raise CheckpointError(f"{path}: has {size:,} bytes, more than any checkpoint")
    return file


def _header(file: BinaryIO) -> tuple[bytes, Any]:
    """The bytes up to the end of the header, and what it says."""
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) + length > os.fstat(file.fileno()).st_size or not length:
        raise ValueError("it ends within its header")
    if length > LARGEST_HEADER:
        raise ValueError("its header is larger than any")
    start += file.read(length)
    return start, json.loads(start[8:].decode())


def _expect_version(path: Path, found: int) -> None:
    if found > VERSION:
        known = f"this program reads up to {VERSION}; update trpo-cli"
        raise NewerCheckpointError(f"{path}: has format {found}, {known}")
    if found < VERSION:
        raise CheckpointError(f"{path}: has format {found}, which this program no longer reads")


def _expect_size(file: BinaryIO, size: int) -> None:
    """Before gigabytes are read for nothing."""
    found = os.fstat(file.fileno()).st_size
    if found != size:
        raise ValueError(f"it has {found:,} bytes instead of {size:,}")


def _said(error: BaseException) -> str:
    """In a few words: what a stranger's file says may be long."""
    reason = error.strerror if isinstance(error, OSError) else None
    return f"{reason or str(error) or type(error).__name__:.200}"
