"""Checkpoints: atomic files with a checksum and without pickle, and the directory that keeps the newest and the best.

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
from trpo_cli.run.layout import BEST, NEWEST
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


def save(path: Path, state: dict[str, Any], *copies: Path) -> None:
    """Write `state` to each of the `copies`, and then to `path`. See `packing.pack` for the types it may hold.

    Raises `TypeError` for other types, and `CheckpointError` if a file cannot be written.
    """
    data = sealing.seal(pack(state), VERSION)
    for place in (*copies, path):
        try:
            durable.write(place, data)
        except OSError as error:
            reason = _reason(error)
            raise CheckpointError(f"{place}: cannot be saved: {reason}; earlier checkpoints are intact") from error


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


def load_chosen(directory: Path, chosen: int | str) -> Loaded:
    """Load the `"newest"` undamaged checkpoint in `directory`, the `"best"`, or the one after so many steps.

    Raises `CheckpointError` if there is none.
    """
    if chosen == NEWEST:
        return load_newest(directory)
    bests = list_checkpoints(directory / BEST)
    if chosen == BEST:
        if not bests:
            how = "checkpoint.best=eval or checkpoint.best=train"
            raise CheckpointError(f"{directory}: no best checkpoint was kept; train with {how}")
        return load_newest(directory / BEST)
    kept = {steps_of(path): path for path in (*bests, *list_checkpoints(directory))}
    if chosen not in kept:
        steps = ", ".join(map(str, sorted(kept))) or "none"
        raise CheckpointError(f"{directory}: holds no checkpoint of step {chosen}; available steps: {steps}")
    path = kept[int(chosen)]
    return Loaded(path, load(path), {})


def keep_newest(directory: Path, count: int) -> None:
    """Delete all but the newest `count` checkpoints, and the best ones that have a better one before all of these.

    Of the best, those thus remain to which one of the `count` refers, should a newer one turn out to be damaged.
    """
    every = list_checkpoints(directory)
    oldest = steps_of(every[-count:][0])
    before = [path for path in list_checkpoints(directory / BEST) if steps_of(path) <= oldest]
    for path in (*every[:-count], *before[:-1]):
        path.unlink()


def forget_bests(directory: Path, after: int) -> None:
    """Delete the best checkpoints of more than `after` steps, which a killed run did not live to refer to."""
    for path in list_checkpoints(directory / BEST):
        if steps_of(path) > after:
            path.unlink()


def steps_of(path: Path) -> int:
    """The environment steps in the name of a checkpoint."""
    return int(path.stem.removeprefix("step_"))


def list_checkpoints(directory: Path) -> list[Path]:
    """The paths in `directory` named like checkpoints, by number of steps. Raises `CheckpointError` if unreadable."""
    found = [(int(match[1]), name) for name in _names(directory) if (match := NAME.fullmatch(name))]
    return [directory / name for _, name in sorted(found)]


def remove_temporary_files(directory: Path) -> None:
    """Delete the temporary files of killed saves. Raises `CheckpointError` if one cannot be deleted."""
    folders = (directory, directory / BEST)
    for path in (folder / name for folder in folders for name in _names(folder) if TEMPORARY.fullmatch(name)):
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
