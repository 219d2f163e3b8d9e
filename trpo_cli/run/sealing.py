"""Tensors as the bytes of a safetensors file, and back. An extra tensor holds the SHA-256 of all bytes but its own.

A single changed bit is thus found before anything but the header is read. The metadata of the header has the `version`
of the format, which every version of this program can read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

SEAL = "__sha256__"


def seal(tensors: Mapping[str, Tensor], version: int) -> bytearray:
    """The bytes of a file with `tensors`, which are contiguous, on the CPU, and share no memory."""
    unsealed = {**tensors, SEAL: torch.zeros(32, dtype=torch.uint8)}
    data = bytearray(safetensors.torch.save(unsealed, {"version": str(version)}))
    place = _seal_position(data)
    data[place] = _digest(data, place)
    return data


def unseal(data: bytes) -> dict[str, Tensor]:
    """The tensors of a file, including the seal. Raises `ValueError` if it has changed since `seal` made it.

    Bytes that do not come from `seal` may also raise `LookupError` or `TypeError`.
    """
    place = _seal_position(data)
    if _digest(data, place) != data[place]:
        raise ValueError("the checksum does not match")
    return safetensors.torch.load(data)


def size(header: Mapping[str, Any]) -> int:
    """The number of bytes after the header of a complete file."""
    return max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)


def _seal_position(data: bytes | bytearray) -> slice:
    """The position of the seal. A forged header may point anywhere, but only the seal is the digest of the rest."""
    start = 8 + int.from_bytes(data[:8], "little")
    first, end = json.loads(data[8:start])[SEAL]["data_offsets"]
    return slice(start + first, start + end)


def _digest(data: bytes | bytearray, place: slice) -> bytes:
    rest = memoryview(data)
    digest = hashlib.sha256(rest[: place.start])
    digest.update(rest[place.stop :])
    return digest.digest()
