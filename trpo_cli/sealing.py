"""Tensors as the bytes of a safetensors file, and back; its last tensor is the sha256 of every byte before it.

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
NAMES = {  # of the dtypes that every reader of safetensors knows; others are written as bytes
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def seal(tensors: Mapping[str, Tensor], version: int) -> bytearray:
    """The bytes of a file of contiguous CPU tensors; one of a dtype beyond `NAMES` is read back as flat uint8."""
    header: dict[str, Any] = {"__metadata__": {"version": str(version)}}
    blocks: list[Any] = []
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: -item[1].element_size()):  # so all are aligned
        block = tensor.reshape(-1).view(torch.uint8).numpy()
        shape = list(tensor.shape) if tensor.dtype in NAMES else [len(block)]
        header[name] = _entry(NAMES.get(tensor.dtype, "U8"), shape, end, len(block))
        blocks.append(block)
        end += len(block)
    header[SEAL] = _entry("U8", [32], end, 32)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = bytearray().join([len(text).to_bytes(8, "little"), text, *blocks, bytes(32)])
    data[-32:] = hashlib.sha256(memoryview(data)[:-32]).digest()
    return data


def _entry(dtype: str, shape: list[int], start: int, size: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, start + size]}


def size(header: Mapping[str, Any]) -> int:
    """How many bytes follow the header of a whole file."""
    return max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)


def unseal(data: bytes) -> dict[str, Tensor]:
    """The tensors of a whole file. Raises `ValueError` if it was changed since `seal` made it."""
    if hashlib.sha256(memoryview(data)[:-32]).digest() != data[-32:]:
        raise ValueError("its checksum does not match")
    return safetensors.torch.load(data)


def unseal_first_format(data: bytes, metadata: Mapping[str, Any]) -> dict[str, Tensor]:
    """The same, where the checksum lay in the metadata, beside the text it covered."""
    tensors = safetensors.torch.load(data)
    digest = hashlib.sha256(f"1 {metadata['state']}".encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    if digest.hexdigest() != metadata["sha256"]:
        raise ValueError("its checksum does not match")
    return tensors
