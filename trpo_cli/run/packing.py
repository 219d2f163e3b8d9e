"""A nested state as JSON text and tensors, and back. Values, types, byte order and memory order are kept exactly.

JSON can express dicts with text keys, lists, text, numbers, booleans and null. Anything else is written as a dict with
one key, a mark, that names the type; a dict of the state that looks like one is written as `__items__`. A state may
hold thousands of NumPy arrays, so their bytes are concatenated in one tensor.
"""

from __future__ import annotations

import functools
import json
import math
import re
import struct
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

STATE, ARRAYS = "__state__", "__arrays__"
LONG = 2**256  # larger integers are written in base 16, since Python limits the decimal digits that it reads
NUMPY_DTYPE = re.compile(
    r"[<>|][biufcSUV][1-9]\d{0,8}|[<>][mM]8(\[\d{0,9}[a-zA-Z]{1,2}\])?"
)  # without fields and objects
TORCH_DTYPES = {  # supported by safetensors; complex numbers are stored as pairs
    str(dtype): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8),
        *(torch.complex128, torch.complex64, torch.bool),
    )
}

Trail = tuple[Any, ...]  # the path to a value: (trail of its parent, its key), or () at the root
Array = np.ndarray[Any, Any]


def pack(state: dict[str, Any]) -> dict[str, Tensor]:
    """Return a contiguous copy of every tensor in `state` by its path, and two tensors of bytes for the rest.

    A state consists of dicts, lists, tuples, None, bool, int, float, complex, str, bytes, tensors of `TORCH_DTYPES`,
    and NumPy arrays and scalars without fields or objects. Tensors are restored on the CPU and without gradient, an
    `OrderedDict` as a dict. Raises `TypeError` for any other type, naming its path.
    """
    packer = _Packer()
    text = json.dumps(packer.items(state, ()), separators=(",", ":"), check_circular=False)
    packer.tensors[STATE] = _as_tensor([text.encode("ascii")])
    packer.tensors[ARRAYS] = _as_tensor(packer.blocks)
    return packer.tensors


def unpack(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Restore the state that `pack` was given.

    Other tensors raise one of many errors, but never run code.
    """
    text = tensors[STATE].numpy().tobytes().decode("ascii")
    state = json.loads(text, object_pairs_hook=_Unpacker(tensors))
    if not isinstance(state, dict):
        raise TypeError(f"the state is a {type(state).__name__} instead of a dict")
    return state


def _as_tensor(blocks: list[bytes]) -> Tensor:
    return torch.from_numpy(np.frombuffer(bytearray().join(blocks), np.uint8))


class _Packer:
    """Converts values to JSON and collects tensors and the bytes of arrays on the way."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.blocks: list[bytes] = []
        self.size = 0  # total bytes of the blocks

    def any(self, value: Any, trail: Trail) -> Any:
        """`value` as JSON. Subclasses other than those of `Tensor` are refused, since they may hold more."""
        write = WRITERS.get(type(value))
        if write is not None:
            return write(self, value, trail)
        if isinstance(value, Tensor):
            return self.tensor(value, trail)
        return self.scalar(value, trail) if isinstance(value, np.generic) else _refuse(value, trail)

    def items(self, value: dict[Any, Any], trail: Trail) -> Any:
        if type(value) not in (dict, OrderedDict):
            _refuse(value, trail)
        if all(type(key) is str for key in value) and not _resembles_a_mark(value):
            return {key: self.any(item, (trail, key)) for key, item in value.items()}
        keys = [self.any(key, (trail, type(key).__name__)) for key in value]
        items = zip(keys, value.values(), strict=True)
        return {"__items__": [[key, self.any(item, (trail, key))] for key, item in items]}

    def sequence(self, value: Sequence[Any], trail: Trail) -> list[Any]:
        return [self.any(item, (trail, index)) for index, item in enumerate(value)]

    def tensor(self, value: Tensor, trail: Trail) -> Any:
        if value.layout != torch.strided or value.is_meta:
            _refuse(value, trail)
        if str(value.dtype) not in TORCH_DTYPES:
            _refuse(value, trail, f" of {value.dtype}")
        plain = value.detach().cpu().resolve_conj().resolve_neg()
        name = self._free_name(_path(trail))
        copy = plain.clone(memory_format=torch.contiguous_format)  # a copy, since safetensors refuses shared memory
        self.tensors[name] = torch.view_as_real(copy) if copy.is_complex() else copy
        order = [] if plain.is_contiguous() else _memory_order(plain.stride())
        return {"__tensor__": [name, str(plain.dtype), list(plain.shape), *order]}

    def array(self, value: Array, trail: Trail) -> Any:
        order = [] if value.flags.c_contiguous else _memory_order(value.strides)
        return {"__array__": [*self._append(value, trail), list(value.shape), *order]}

    def scalar(self, value: np.generic, trail: Trail) -> Any:
        match value:  # text in an array would lose trailing zeros
            case np.str_():
                return {"__np_str__": value}
            case np.bytes_():
                return {"__np_bytes__": value.hex()}
            case _:
                return {"__scalar__": self._append(value, trail)}

    def _append(self, value: Array | np.generic, trail: Trail) -> list[Any]:
        """Append the bytes of `value`; return its dtype and their offset."""
        dtype = _dtype_name(value.dtype) or _refuse(value, trail, f" of {value.dtype}")
        placed = [dtype, self.size]
        self.blocks.append(value.tobytes())
        self.size += value.nbytes
        return placed

    def _free_name(self, name: str) -> str:
        """An unused name like `name`: keys may contain slashes, so paths can collide, and marks are reserved."""
        name = name.encode("ascii", "backslashreplace").decode()
        while name in self.tensors or name.startswith("__"):
            name = f"{name.removeprefix('__')}~"
        return name


WRITERS: dict[type, Callable[[_Packer, Any, Trail], Any]] = {
    **dict.fromkeys((str, bool, type(None)), lambda packer, value, trail: value),
    int: lambda packer, value, trail: value if -LONG < value < LONG else {"__int__": hex(value)},
    float: lambda packer, value, trail: _real(value),
    complex: lambda packer, value, trail: {"__complex__": [_real(value.real), _real(value.imag)]},
    bytes: lambda packer, value, trail: {"__bytes__": value.hex()},
    list: _Packer.sequence,
    tuple: lambda packer, value, trail: {"__tuple__": packer.sequence(value, trail)},
    **dict.fromkeys((dict, OrderedDict), _Packer.items),
    np.ndarray: _Packer.array,
}


def _real(value: float) -> Any:
    """`value` as JSON. NaN is written as its bits, which may differ."""
    return value if value == value else {"__nan__": struct.pack(">d", value).hex()}


def _resembles_a_mark(value: dict[str, Any]) -> bool:
    return len(value) == 1 and next(iter(value)).startswith("__")


@functools.lru_cache  # called for every array, with a few dtypes
def _dtype_name(dtype: np.dtype[Any]) -> str | None:
    """A string that defines `dtype` completely; None for fields, Python objects, empty types and extension types."""
    word = dtype.str
    return word if NUMPY_DTYPE.fullmatch(word) and dtype.isbuiltin != 2 and np.dtype(word) == dtype else None


def _refuse(value: Any, trail: Trail, of: str = "") -> NoReturn:
    raise TypeError(f"a checkpoint cannot hold {_path(trail)}: {type(value).__name__}{of}")


def _path(trail: Trail) -> str:
    keys = []
    while trail:
        trail, key = trail
        keys.append(str(key))
    return "/".join(reversed(keys))


class _Unpacker:
    """Called by the JSON reader for every object, innermost first."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self.bytes = tensors[ARRAYS].numpy().data
        self.readers: dict[str, Callable[[Any], Any]] = {
            "__int__": lambda content: int(content, 16),
            "__nan__": lambda content: struct.unpack(">d", bytes.fromhex(content))[0],
            "__complex__": lambda content: complex(*content),
            "__bytes__": bytes.fromhex,
            "__np_str__": np.str_,
            "__np_bytes__": lambda content: np.bytes_(bytes.fromhex(content)),
            "__tuple__": tuple,
            "__items__": _mapping,
            "__tensor__": lambda content: self.tensor(*content),
            "__array__": lambda content: self.array(*content),
            "__scalar__": lambda content: self.array(content[0], content[1], ())[()],
        }

    def __call__(self, pairs: list[tuple[str, Any]]) -> Any:
        if len(pairs) == 1 and pairs[0][0] in self.readers:
            mark, content = pairs[0]
            return self.readers[mark](content)
        return _mapping(pairs)

    def tensor(self, name: str, dtype: str, shape: list[int], order: list[int] | None = None) -> Tensor:
        """A copy of the tensor, since the memory of the file may not be aligned."""
        copy = self.tensors[name].reshape(-1).view(torch.uint8).clone()
        tensor = copy.view(TORCH_DTYPES[dtype]).reshape(shape)
        return tensor if order is None else tensor.permute(order).contiguous().permute(_inverse(order))

    def array(self, dtype: str, offset: int, shape: Sequence[int], order: list[int] | None = None) -> Any:
        """A copy of the array. NumPy would accept negative and overflowing offsets, so they are checked here."""
        if not NUMPY_DTYPE.fullmatch(dtype):  # NumPy evaluates some strings
            raise ValueError("an array has an unknown type")
        kind: np.dtype[Any] = np.dtype(dtype)
        end = offset + math.prod(shape) * kind.itemsize
        if min(offset, *shape, 0) < 0 or end > len(self.bytes):
            raise ValueError("an array lies outside the file")
        array: Array = np.ndarray(tuple(shape), kind, self.bytes, offset)
        return array.copy() if order is None else array.transpose(order).copy().transpose(_inverse(order))


def _mapping(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _memory_order(strides: Sequence[int]) -> list[list[int]]:
    """[the axes from outermost to innermost in memory], or [] if that is their order."""
    order = sorted(range(len(strides)), key=lambda axis: -abs(strides[axis]))
    return [] if order == sorted(order) else [order]


def _inverse(order: Sequence[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)
