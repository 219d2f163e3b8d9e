"""When two states are one: in values to the bit, types, byte order, memory order and the order of keys."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import torch


def exactly(a: Any, b: Any) -> bool:
    """Whether `a` and `b` cannot be told apart."""
    if type(a) is not type(b):
        return False
    match a:
        case torch.Tensor():
            return (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride()) and bits(a) == bits(b)
        case np.ndarray() | np.generic():
            return (a.dtype, a.shape, steps(a)) == (b.dtype, b.shape, steps(b)) and a.tobytes() == b.tobytes()
        case dict():
            return exactly(list(a), list(b)) and exactly(list(a.values()), list(b.values()))
        case list() | tuple():
            return len(a) == len(b) and all(map(exactly, a, b))
        case float():
            return struct.pack("d", a) == struct.pack("d", b)
        case complex():
            return exactly([a.real, a.imag], [b.real, b.imag])
        case _:
            return bool(a == b)


def steps(array: Any) -> list[int]:
    """The strides that matter."""
    return [stride for stride, size in zip(array.strides, array.shape, strict=True) if size > 1 and array.size]


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
