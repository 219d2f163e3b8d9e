"""Checkpoints: atomic files with a checksum and without pickle, and the directory that keeps the newest of them.

`packing.py` turns a state into tensors, and `sealing.py` turns tensors into bytes with a checksum.
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

VERSION = 3  # of the format; no other is read
SUFFIX = ".safetensors"
NAME = re.compile(r"step_([0-9]+)\.safetensors")
TEMPORARY = re.compile(r"\.step_[0-9]+\.safetensors\.tmp")
LARGEST = 16 * 2**30  # bytes, far more than any state
LARGEST_HEADER = (
    100_000_000  # bytes, as in safetensors, since a sparse file can claim gigabytes that it does not occupy
)
KINDS = {stat.S_IFLNK: "symbolic link", stat.S_IFDIR: "directory", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
DAMAGE_ERRORS = (  # that reading bytes may raise if `save` did not write them
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
    """A checkpoint, and the newer ones that were skipped, newest first, each with its error."""

    path: Path
    state: dict[str, Any]
    damaged: dict[Path, CheckpointError]


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` to `path`. See `packing.pack` for the types it may hold.

    Raises `TypeError` for other types, and `CheckpointError` if the file cannot be written.
    """
    data = sealing.seal(pack(state), VERSION)
    try:
        durable.write(path, data)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be saved: {_reason(error)}; earlier checkpoints are intact") from error


def load(path: Path) -> dict[str, Any]:
    """Read the state that `save` wrote.

    Raises `CheckpointError` if `path` is missing, damaged or no regular file, and `NewerCheckpointError` if a later
    version of this program wrote it.
    """
    try:
        with _open(path) as file:
            start, header = _header(file)
            _expect_version(path, int(header["__metadata__"]["version"]))
            _expect_size(file, len(start) + sealing.size(header))
            data = start + file.read()
        return unpack(sealing.unseal(data))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {_reason(error)}") from error
    except DAMAGE_ERRORS as error:
        raise CheckpointError(f"{path}: is not a complete checkpoint: {_reason(error)}") from error


def load_newest(directory: Path) -> Loaded:
    """Load the undamaged checkpoint in `directory` with the most steps.

    Raises `CheckpointError` if there is none, and `NewerCheckpointError` if a later version of this program wrote a
    newer one, which resuming from an older one would overwrite.
    """
    damaged: dict[Path, CheckpointError] = {}
    for path in reversed(list_checkpoints(directory)):
        try:
            return Loaded(path, load(path), damaged)
        except NewerCheckpointError:
            raise
        except CheckpointError as error:
            damaged[path] = error
    if damaged:
        raise CheckpointError("\n".join([f"{directory}: holds no complete checkpoint", *map(str, damaged.values())]))
    raise CheckpointError(f"{directory}: holds no checkpoint")


def list_checkpoints(directory: Path) -> list[Path]:
    """The paths in `directory` named like checkpoints, by number of steps. Raises `CheckpointError` if unreadable."""
    found = [(int(match[1]), name) for name in _names(directory) if (match := NAME.fullmatch(name))]
    return [directory / name for _, name in sorted(found)]


def remove_temporary_files(directory: Path) -> None:
    """Delete the temporary files of killed saves. Raises `CheckpointError` if one cannot be deleted."""
    for path in (directory / name for name in _names(directory) if TEMPORARY.fullmatch(name)):
        try:
            if stat.S_ISREG(os.lstat(path).st_mode):
                os.unlink(path)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be removed: {_reason(error)}") from error


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(f"{directory}: cannot be read: {_reason(error)}") from error


def _open(path: Path) -> BinaryIO:
    """Open a regular file of a plausible size. Opening anything else might block or have side effects."""
    kind = stat.S_IFMT(os.lstat(path).st_mode)
    if kind != stat.S_IFREG:
        raise CheckpointError(f"{path}: is not a regular file, but a {KINDS.get(kind, 'device')}")
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
    size = os.fstat(file.fileno()).st_size
    if size > LARGEST:
        file.close()
        raise CheckpointError(f"{path}: has {size:,} bytes, which is more than any checkpoint")
    return file


def _header(file: BinaryIO) -> tuple[bytes, Any]:
    """The bytes up to the end of the header, and the header itself."""
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) + length > os.fstat(file.fileno()).st_size or not length:
        raise ValueError("the file ends within its header")
    if length > LARGEST_HEADER:
        raise ValueError("the header is larger than that of any checkpoint")
    start += file.read(length)
    return start, json.loads(start[8:].decode())


def _expect_version(path: Path, found: int) -> None:
    if found > VERSION:
        known = f"this program reads up to {VERSION}; update trpo-cli"
        raise NewerCheckpointError(f"{path}: has format {found}; {known}")
    if found < VERSION:
        raise CheckpointError(f"{path}: has format {found}, which this program no longer reads")


def _expect_size(file: BinaryIO, size: int) -> None:
    """Check the size before reading gigabytes in vain."""
    found = os.fstat(file.fileno()).st_size
    if found != size:
        raise ValueError(f"the file has {found:,} bytes instead of {size:,}")


def _reason(error: BaseException) -> str:
    """A short message, since that of an untrusted file may be long."""
    reason = error.strerror if isinstance(error, OSError) else None
    return f"{reason or str(error) or type(error).__name__:.200}"
