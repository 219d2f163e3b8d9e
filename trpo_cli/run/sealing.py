"""Tensors as the bytes of a safetensors file, and back; one more tensor is the sha256 of every byte but its own.

So a single changed bit is found before anything but the header is looked at. The header's metadata says the `version`
of the format; a reader of any age finds it there.
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
    """The bytes of a file of contiguous CPU tensors that share no memory."""
    unsealed = {**tensors, SEAL: torch.zeros(32, dtype=torch.uint8)}
    data = bytearray(safetensors.torch.save(unsealed, {"version": str(version)}))
    place = _place(data)
    data[place] = _digest(data, place)
    return data


def unseal(data: bytes) -> dict[str, Tensor]:
    """The tensors of a whole file, the seal among them. Raises `ValueError` if it was changed since `seal` made it.

    Bytes that no `seal` made may raise `LookupError` or `TypeError`, too.
    """
    place = _place(data)
    if _digest(data, place) != data[place]:
        raise ValueError("its checksum does not match")
    return safetensors.torch.load(data)


def size(header: Mapping[str, Any]) -> int:
    """How many bytes follow the header of a whole file."""
    return max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)


def _place(data: bytes | bytearray) -> slice:
    """Where the seal lies. Of a false header it may be anywhere, but no other 32 bytes are the digest of the rest."""
    start = 8 + int.from_bytes(data[:8], "little")
    first, end = json.loads(data[8:start])[SEAL]["data_offsets"]
    return slice(start + first, start + end)


def _digest(data: bytes | bytearray, place: slice) -> bytes:
    rest = memoryview(data)
    digest = hashlib.sha256(rest[: place.start])
    digest.update(rest[place.stop :])
    return digest.digest()
