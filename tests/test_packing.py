"""Whatever a state holds comes back exactly, and what would not is refused by name."""

from __future__ import annotations

import enum
from collections import OrderedDict, defaultdict, namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from exactness import bits, exactly
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.dtypes import StringDType

from trpo_cli.run.packing import pack, unpack
from trpo_cli.run.sealing import seal, unseal


def there_and_back(state: dict[Any, Any]) -> dict[Any, Any]:
    return unpack(unseal(bytes(seal(pack(state), 2))))


MARKS = ["__tensor__", "__items__", "__tuple__", "__array__", "__state__", "__metadata__", "__int__", "a/b", "a", "b"]
WORDS = st.sampled_from(MARKS) | st.text(max_size=3) | st.text("\ud800\0", max_size=2)
PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**250, 2**260)
    | st.floats()
    | st.complex_numbers()
    | st.binary(max_size=3)
    | WORDS
)
KEYS = WORDS | st.integers() | st.floats() | st.booleans() | st.none() | st.tuples(WORDS, st.integers())
KINDS = ["?", "b", "H", ">i4", "i8", "e", "<f4", ">f8", "g", "F", ">D", "<U2", "S3", "M8[ns]", "m8[25s]"]


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    """In any order of memory."""
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    values: np.ndarray[Any, Any] = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    array = np.zeros(shape, draw(st.sampled_from(KINDS)))
    array[...] = values % 2 if array.dtype.kind == "b" else values.astype(array.dtype)
    return array.transpose(draw(st.permutations(range(array.ndim))))


VALUES = st.recursive(
    PLAIN | arrays(),
    lambda parts: (
        st.lists(parts, max_size=3)
        | st.lists(parts, max_size=3).map(tuple)
        | st.dictionaries(KEYS, parts, max_size=3)
        | st.dictionaries(st.sampled_from(MARKS), parts, max_size=1)
    ),
    max_leaves=8,
)


@given(st.dictionaries(KEYS, VALUES, max_size=3))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_nested_state_comes_back(state: dict[Any, Any]) -> None:
    assert exactly(there_and_back(state), state)


SCALARS: list[Any] = [
    *(np.dtype(kind).type(1) for kind in "?bhilBHILefdgFDG"),
    np.float64("nan"),
    np.float32(-0.0),
    np.longdouble(1) / 3,
    np.str_("text\0"),
    np.bytes_(b"bytes\0"),
    np.datetime64("2020-01-02T03", "h"),
    np.timedelta64("NaT"),
    np.void(b"abc"),
]


@pytest.mark.parametrize("scalar", SCALARS, ids=lambda scalar: type(scalar).__name__)
def test_numpy_scalars_stay_what_they_are(scalar: Any) -> None:
    assert exactly(there_and_back({"a": scalar, "b": [scalar]}), {"a": scalar, "b": [scalar]})


@pytest.mark.parametrize("dtype", ["V5", ">U3", "M8", "m8[25us]"])
def test_dtypes_keep_their_size_order_and_unit(dtype: str) -> None:
    array = np.zeros((2, 3), dtype)
    found = there_and_back({"a": array})["a"]
    assert exactly(found, array)
    assert found.flags.writeable


NUMBERS = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8),
    *(torch.complex128, torch.complex64, torch.bool),
)


@pytest.mark.parametrize("dtype", NUMBERS, ids=str)
def test_tensors_of_every_dtype(dtype: torch.dtype) -> None:
    width = torch.empty(0, dtype=dtype).element_size()
    raw = torch.arange(6 * width, dtype=torch.uint8)
    raw = raw % 2 if dtype == torch.bool else raw
    values = raw.view(dtype)
    state = {"flat": values, "matrix": values.reshape(2, 3), "none": values[:0], "one": values[0]}
    found = there_and_back(state)
    for name, tensor in state.items():
        assert (found[name].dtype, found[name].shape) == (dtype, tensor.shape)
        assert bits(found[name]) == bits(tensor)


def test_tensors_keep_their_order_of_memory() -> None:
    cube = torch.arange(24.0).reshape(2, 3, 4)
    state = {"turned": cube.permute(2, 0, 1), "matrix": cube[0].T, "sliced": cube[..., ::2].clone(), "conj": cube * 1j}
    state["conj"] = state["conj"].conj().resolve_conj()
    assert exactly(there_and_back(state), state)
    assert torch.equal(there_and_back({"lazy": (cube * 1j).conj()})["lazy"], (cube * 1j).conj())


def test_tensors_that_share_memory_come_back_as_their_own() -> None:
    flat = torch.arange(6.0)
    found = there_and_back({"flat": flat, "again": flat, "part": flat[2:4], "wide": flat[:1].expand(3)})
    found["flat"].zero_()
    assert exactly(found["again"], flat)
    assert exactly(found["part"], flat[2:4])
    assert torch.equal(found["wide"], torch.zeros(3))


def test_tensors_whose_paths_are_one() -> None:
    one, two, three = torch.ones(1), torch.ones(2), torch.ones(3)
    state = {"a/b": one, "a": {"b": two}, "__state__": three, "": one, "\ud800": two, 1: three, "1": one}
    assert exactly(there_and_back(state), state)


def test_parameters_become_tensors_and_ordered_dicts_dicts() -> None:
    module = torch.nn.Linear(2, 1)
    found = there_and_back({"module": module.state_dict(), "weight": module.weight})
    assert type(found["module"]) is dict
    assert exactly(found["weight"], module.weight.detach())
    assert exactly(there_and_back({"a": OrderedDict(b=1)}), {"a": {"b": 1}})


Pair = namedtuple("Pair", "a b")
OTHERS: list[Any] = [
    {1, 2},
    bytearray(1),
    defaultdict(int),
    Pair(1, 2),
    enum.IntEnum("Number", "one").one,  # type: ignore[attr-defined]
    object(),
    np.array([None]),
    np.array([(1, None)], "i4,O")[0],
    np.array(["a"], StringDType()),
    np.ma.array([1.0]),
    np.recarray(1, "i4"),
    np.zeros(1, "V0"),
    np.zeros(1, "i1,>f8"),
    np.zeros(1, "f4,U3")[0],
    np.zeros(1, {"names": ["late"], "formats": ["f4"], "offsets": [4], "itemsize": 12}),
    torch.zeros(1, dtype=torch.float8_e8m0fnu),
    torch.eye(2).to_sparse(),
    torch.ones(1, device="meta"),
]


@pytest.mark.parametrize("value", OTHERS, ids=lambda value: type(value).__name__)
def test_anything_else_is_refused_by_its_place(value: Any) -> None:
    with pytest.raises(TypeError, match=rf"^a checkpoint cannot hold parts/1/odd: {type(value).__name__}"):
        pack({"parts": [0, {"odd": value}]})


def test_a_key_of_another_kind_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^a checkpoint cannot hold a/frozenset: frozenset"):
        pack({"a": {frozenset(): 1}})
    with pytest.raises(TypeError, match="cannot hold : list"):
        pack([])  # type: ignore[arg-type]
