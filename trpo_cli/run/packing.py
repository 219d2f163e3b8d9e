"""A nested state as JSON text and tensors, and back: values, types, byte order and memory order, exactly.

JSON has words for dicts with text keys, lists, text, numbers, booleans and null. Anything else is a dict of one key, a
mark, which says what its content is; a state's own dict that looks like one is written as `__items__`. A state may hold
numpy arrays by the thousand, so the bytes of them all lie end to end in one tensor.
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
LONG = 2**256  # such integers are written in base 16: Python bounds the decimal digits it reads
NUMPY_DTYPE = re.compile(r"[<>|][biufcSUV][1-9]\d{0,8}|[<>][mM]8(\[\d{0,9}[a-zA-Z]{1,2}\])?")  # plain, of some size
TORCH_DTYPES = {  # that safetensors writes and reads, complex ones as two reals
    str(dtype): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8),
        *(torch.complex128, torch.complex64, torch.bool),
    )
}

Trail = tuple[Any, ...]  # the way to a value: (its parent's trail, its key), or () at the root
Array = np.ndarray[Any, Any]


def pack(state: dict[str, Any]) -> dict[str, Tensor]:
    """A contiguous copy of every tensor of `state` under its path, and two of bytes for the rest.

    A state is made of dicts, lists, tuples, None, bool, int, float, complex, str, bytes, tensors of `TORCH_DTYPES`, and
    numpy arrays and scalars without fields or objects. Tensors come back on the CPU, without gradient, and an
    `OrderedDict` as a dict. Raises `TypeError` for anything else, naming its place.
    """
    packer = _Packer()
    text = json.dumps(packer.items(state, ()), separators=(",", ":"), check_circular=False)
    packer.tensors[STATE] = _as_tensor([text.encode("ascii")])
    packer.tensors[ARRAYS] = _as_tensor(packer.blocks)
    return packer.tensors


def unpack(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The state that `pack` took apart.

    What `pack` did not write raises one of many errors; nothing of it is ever run.
    """
    text = tensors[STATE].numpy().tobytes().decode("ascii")
    state = json.loads(text, object_pairs_hook=_Unpacker(tensors))
    if not isinstance(state, dict):
        raise TypeError(f"its state is a {type(state).__name__}")
    return state


def _as_tensor(blocks: list[bytes]) -> Tensor:
    return torch.from_numpy(np.frombuffer(bytearray().join(blocks), np.uint8))


class _Packer:
    """Writes values as JSON has them, gathering tensors and the bytes of arrays on the way."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.blocks: list[bytes] = []
        self.size = 0  # of the blocks

    def any(self, value: Any, trail: Trail) -> Any:
        """`value` in JSON's words. Of a subclass, but for tensors, there is no knowing what it adds."""
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
        name = self._free(_path(trail))
        copy = plain.clone(memory_format=torch.contiguous_format)  # safetensors refuses tensors that share memory
        self.tensors[name] = torch.view_as_real(copy) if copy.is_complex() else copy
        order = [] if plain.is_contiguous() else _memory_order(plain.stride())
        return {"__tensor__": [name, str(plain.dtype), list(plain.shape), *order]}

    def array(self, value: Array, trail: Trail) -> Any:
        order = [] if value.flags.c_contiguous else _memory_order(value.strides)
        return {"__array__": [*self._placed(value, trail), list(value.shape), *order]}

    def scalar(self, value: np.generic, trail: Trail) -> Any:
        match value:  # as an array, text loses the zeros at its end
            case np.str_():
                return {"__np_str__": value}
            case np.bytes_():
                return {"__np_bytes__": value.hex()}
            case _:
                return {"__scalar__": self._placed(value, trail)}

    def _placed(self, value: Array | np.generic, trail: Trail) -> list[Any]:
        """Its dtype, and where its bytes begin."""
        dtype = _said(value.dtype) or _refuse(value, trail, f" of {value.dtype}")
        placed = [dtype, self.size]
        self.blocks.append(value.tobytes())
        self.size += value.nbytes
        return placed

    def _free(self, name: str) -> str:
        """A key may hold a slash, so two tensors may have one path; and names with a mark's look are not for them."""
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
    """Of NaN the bits count too: there are many."""
    return value if value == value else {"__nan__": struct.pack(">d", value).hex()}


def _resembles_a_mark(value: dict[str, Any]) -> bool:
    return len(value) == 1 and next(iter(value)).startswith("__")


@functools.lru_cache  # asked for every array, and the same few
def _said(dtype: np.dtype[Any]) -> str | None:
    """A word that says all about `dtype`; None for fields, Python objects, things of no size and others' types."""
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
    """Called by the JSON reader for every object, the innermost first."""

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
        """A copy, as the memory that was read need not be aligned."""
        copy = self.tensors[name].reshape(-1).view(torch.uint8).clone()
        tensor = copy.view(TORCH_DTYPES[dtype]).reshape(shape)
        return tensor if order is None else tensor.permute(order).contiguous().permute(_inverse(order))

    def array(self, dtype: str, offset: int, shape: Sequence[int], order: list[int] | None = None) -> Any:
        """Numpy takes an offset before the start, and one so large that it overflows."""
        if not NUMPY_DTYPE.fullmatch(dtype):  # numpy evaluates some, and copies nothings one by one
            raise ValueError("one of its arrays is of no known type")
        kind: np.dtype[Any] = np.dtype(dtype)
        end = offset + math.prod(shape) * kind.itemsize
        if min(offset, *shape, 0) < 0 or end > len(self.bytes):
            raise ValueError("one of its arrays lies outside it")
        array: Array = np.ndarray(tuple(shape), kind, self.bytes, offset)
        return array.copy() if order is None else array.transpose(order).copy().transpose(_inverse(order))


def _mapping(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _memory_order(strides: Sequence[int]) -> list[list[int]]:
    """The axes from the outermost in memory to the innermost, or nothing if they are numbered so."""
    order = sorted(range(len(strides)), key=lambda axis: -abs(strides[axis]))
    return [] if order == sorted(order) else [order]


def _inverse(order: Sequence[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)
