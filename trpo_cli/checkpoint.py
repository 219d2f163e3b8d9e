"""One atomic, verified, pickle-free file: a safetensors file whose metadata holds the plain values as JSON.

The metadata's `sha256` covers the version, the JSON and every tensor, so a single changed bit is found when the file
is loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from trpo_cli.errors import CheckpointError

VERSION = 1
SUFFIX = ".safetensors"
TENSOR, ITEMS = "__tensor__", "__items__"


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state`: dicts, lists, tuples (read back as lists), tensors and plain scalars, nested as you like.

    The file appears whole or not at all: it is written beside its place, synced, moved there, and the directory synced.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_strip(state, "", tensors))
    metadata = {"version": str(VERSION), "state": text, "sha256": _digest(VERSION, text, tensors)}
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        file.write(safetensors.torch.save(tensors, metadata))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def load(path: Path) -> dict[str, Any]:
    """The state that `save` wrote. Raises `CheckpointError` if the file is missing, damaged or of a newer format."""
    try:
        data = path.read_bytes()
        tensors = safetensors.torch.load(data)
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        version, text, digest = int(metadata["version"]), metadata["state"], metadata["sha256"]
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: is no whole checkpoint: {error}") from error
    if version > VERSION:
        raise CheckpointError(f"{path}: has format {version}, this program reads up to {VERSION}; update trpo-cli")
    if _digest(version, text, tensors) != digest:
        raise CheckpointError(f"{path}: is damaged: its checksum does not match")
    restored: dict[str, Any] = _restore(json.loads(text), tensors)
    return restored


def newest(directory: Path) -> Path:
    """The last checkpoint in `directory`. Raises `CheckpointError` if there is none."""
    found = sorted(directory.glob(f"step_*{SUFFIX}"))
    if not found:
        raise CheckpointError(f"{directory}: holds no checkpoint")
    return found[-1]


def _strip(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` with every tensor moved to `tensors`, and what JSON has no word for written in words it has."""
    match value:
        case Tensor():
            if name in tensors:
                raise ValueError(f"a checkpoint cannot hold two tensors called {name}")
            tensors[name] = value.detach().cpu().clone().contiguous()
            return {TENSOR: name}
        case dict():
            items = {key: _strip(item, f"{name}/{key}" if name else str(key), tensors) for key, item in value.items()}
            return items if all(isinstance(key, str) for key in items) else {ITEMS: list(items.items())}
        case list() | tuple():
            return [_strip(item, f"{name}/{index}", tensors) for index, item in enumerate(value)]
        case None | bool() | int() | float() | str():
            return value
        case _:
            raise TypeError(f"a checkpoint cannot hold {name}: {type(value).__name__}")


def _restore(value: Any, tensors: dict[str, Tensor]) -> Any:
    match value:
        case {"__tensor__": name}:
            return tensors[name]
        case {"__items__": items}:
            return {key: _restore(item, tensors) for key, item in items}
        case dict():
            return {key: _restore(item, tensors) for key, item in value.items()}
        case list():
            return [_restore(item, tensors) for item in value]
        case _:
            return value


def _digest(version: int, text: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(f"{version} {text}".encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
