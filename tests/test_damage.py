"""Files that no save wrote, by accident or by design: refused, never run, never read as something else."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exactness import exactly
from hypothesis import given, settings
from hypothesis import strategies as st

from trpo_cli.errors import CheckpointError
from trpo_cli.run import checkpoint
from trpo_cli.run.packing import ARRAYS, STATE
from trpo_cli.run.sealing import seal
from trpo_cli.seeding import global_generators, restore_global_generators

ORIGINAL: dict[str, Any] = {
    "weight": torch.arange(8.0),
    "arrays": [np.arange(6.0).reshape(2, 3).T, np.float32(2)],
    "plain": (2**127 + 1, -0.0, "text", {1: None}),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mutants") / "step_1.safetensors"
    checkpoint.save(path, ORIGINAL)
    return path


@pytest.fixture(scope="module")
def whole(place: Path) -> bytes:
    return place.read_bytes()


def never_wrong(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        loaded = checkpoint.load(path)
    except CheckpointError:
        return
    assert exactly(loaded, ORIGINAL)


def test_every_changed_byte_is_found(place: Path, whole: bytes) -> None:
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        place.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            checkpoint.load(place)


@pytest.mark.parametrize("size", [0, 4, 50, -1])
def test_truncation_is_found(place: Path, whole: bytes, size: int) -> None:
    place.write_bytes(whole[:size])
    with pytest.raises(CheckpointError, match="is not a complete checkpoint"):
        checkpoint.load(place)


def mutate(data: bytes, kind: str, at: int, length: int, other: int, junk: bytes) -> bytes:
    first, second = sorted((at % len(data), other % len(data)))
    match kind:
        case "flip":
            return data[:first] + bytes([data[first] ^ (1 << length % 8)]) + data[first + 1 :]
        case "truncate":
            return data[:first]
        case "insert":
            return data[:first] + junk + data[first:]
        case "overwrite":
            return data[:first] + junk + data[first + len(junk) :]
        case "remove":
            return data[:first] + data[first + length :]
        case _:  # swap
            one, two = data[first : first + length], data[second : second + length]
            return data[:first] + two + data[first + length : second] + one + data[second + length :]


@pytest.mark.parametrize("kind", ["flip", "truncate", "insert", "overwrite", "remove", "swap"])
@given(st.integers(0, 10**6), st.integers(1, 64), st.integers(0, 10**6), st.binary(min_size=1, max_size=40))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_mutants_load_never_or_exactly(
    place: Path, whole: bytes, kind: str, at: int, length: int, other: int, junk: bytes
) -> None:
    never_wrong(place, mutate(whole, kind, at, length, other, junk))


def edited(data: bytes, edit: Callable[[dict[str, Any]], Any]) -> bytes:
    """The file with its header rewritten, and everything after it left."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    edit(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[end:]


@given(st.data())
@settings(max_examples=200, deadline=None, derandomize=True)
def test_edited_headers_load_never_or_exactly(place: Path, whole: bytes, data: st.DataObject) -> None:
    junk = st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=3) | st.just({})

    def edit(header: dict[str, Any]) -> None:
        entry = header[data.draw(st.sampled_from(sorted(header)))]
        entry[data.draw(st.sampled_from(sorted(entry)))] = data.draw(junk)

    never_wrong(place, edited(whole, edit))


MARKS = ["__tensor__", "__items__", "__tuple__", "__array__", "__scalar__", "__int__", "__nan__", "__complex__"]
LEAVES = st.none() | st.integers() | st.floats() | st.sampled_from(["w", "<f8", "|O8", "torch.load", "torch.float64"])
JSON = st.recursive(
    LEAVES,
    lambda parts: (
        st.lists(parts, max_size=4)
        | st.dictionaries(st.sampled_from([*MARKS, "__bytes__", "__np_str__", "__np_bytes__", "a"]), parts, max_size=2)
    ),
    max_leaves=10,
)


def signed(text: str) -> bytes:
    """A file whose checksum is right, and whose state is `text`."""
    state = torch.tensor(list(text.encode()), dtype=torch.uint8)
    return bytes(
        seal({"w": torch.ones(2), ARRAYS: torch.zeros(16, dtype=torch.uint8), STATE: state}, checkpoint.VERSION)
    )


@given(st.dictionaries(st.sampled_from([*MARKS, "a"]), JSON, min_size=1, max_size=2))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_a_signed_state_of_anything_does_no_harm(place: Path, state: Any) -> None:
    place.write_bytes(signed(json.dumps(state)))
    with contextlib.suppress(CheckpointError):
        assert type(checkpoint.load(place)) is dict


SIGNED = {
    "objects": '{"a": {"__array__": ["|O8", 0, [1]]}}',
    "fields": '{"a": {"__array__": [{"names": ["x"], "formats": ["<f8"], "offsets": [0]}, 0, [1]]}}',
    "no type of numpy": '{"a": {"__array__": ["<f3", 0, [1]]}}',
    "evaluated by numpy": '{"a": {"__array__": ["f4,(2,)O", 0, [1]]}}',
    "beyond the end": '{"a": {"__array__": ["<f8", 9, [1]]}}',
    "before the start": '{"a": {"__array__": ["<f8", -8, [1]]}}',
    "far beyond the end": '{"a": {"__array__": ["<f8", 9223372036854775800, [1]]}}',
    "negative shape": '{"a": {"__array__": ["<f8", 0, [-1]]}}',
    "huge shape": '{"a": {"__array__": ["<f8", 0, [4611686018427387904]]}}',
    "huge and of nothing": '{"a": {"__array__": ["|V0", 0, [4611686018427387904]]}}',
    "no order": '{"a": {"__array__": ["<f8", 0, [1, 1], [0, 0]]}}',
    "no dtype": '{"a": {"__tensor__": ["w", "torch.load", [2]]}}',
    "a dtype beyond ours": '{"a": {"__tensor__": ["w", "torch.complex32", [2]]}}',
    "no tensor": '{"a": {"__tensor__": ["v", "torch.float32", [2]]}}',
    "a tensor's name alone": '{"a": {"__tensor__": "w"}}',
    "another size": '{"a": {"__tensor__": ["w", "torch.float32", [3]]}}',
    "twice": '{"a": 1, "a": 2}',
    "twice in items": '{"__items__": [[1, 2], [1.0, 3]]}',
    "no key": '{"__items__": [[[], 2]]}',
    "deep": "[" * 100_000,
    "long": '{"a": ' + "9" * 5000 + "}",
    "no dict": "[]",
    "no JSON": "{a}",
}


@pytest.mark.parametrize("text", SIGNED.values(), ids=SIGNED)
def test_a_signed_file_is_refused_for_what_it_says(place: Path, text: str) -> None:
    place.write_bytes(signed(text))
    with pytest.raises(CheckpointError, match="is not a complete checkpoint: "):
        checkpoint.load(place)


class Trap:
    """Unpickled, it leaves a mark."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("sprung",)


def header(text: bytes, length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, "little") + text


STRANGE = {
    "pickle": pickle.dumps(Trap()),
    "endless header": header(b"{}", 2**60),
    "deep header": header(b"[" * 100_000),
    "list": header(b"[]"),
    "no metadata": header(b"{}"),
    "no number": header(b'{"__metadata__": {"version": "x"}}'),
    "long number": header(b'{"__metadata__": {"version": ' + b"9" * 5000 + b"}}"),
    "no seal": header(b'{"__metadata__": {"version": "%d"}}' % checkpoint.VERSION),
    "no utf-8": header(b"\xff\xfe{}"),
}


@pytest.mark.parametrize("data", STRANGE.values(), ids=STRANGE)
def test_strange_files_are_refused_and_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "step_1.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="is not a complete checkpoint: "):
        checkpoint.load(path)
    assert os.listdir(tmp_path) == [path.name]


def test_a_torch_archive_is_refused_and_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"trap": Trap()}, "step_1.safetensors")
    with pytest.raises(CheckpointError, match="is not a complete checkpoint"):
        checkpoint.load(Path("step_1.safetensors"))
    assert os.listdir(tmp_path) == ["step_1.safetensors"]


def test_only_plain_files_of_a_plausible_size_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path / "target", {})
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", checkpoint.LARGEST + 1)
    with pytest.raises(CheckpointError, match="has 17,179,869,185 bytes, which is more than any checkpoint"):
        checkpoint.load(tmp_path / "huge")
    monkeypatch.setattr(checkpoint.os, "open", lambda *_: pytest.fail("opened"))
    for name, kind in (("link", "symbolic link"), ("directory", "directory"), ("pipe", "pipe")):
        with pytest.raises(CheckpointError, match=f"{name}: is not a regular file, but a {kind}"):
            checkpoint.load(tmp_path / name)
    with pytest.raises(CheckpointError, match="is not a regular file, but a device"):
        checkpoint.load(Path("/dev/null"))
    with pytest.raises(CheckpointError, match="cannot be read: No such file or directory"):
        checkpoint.load(tmp_path / "missing")


def test_a_header_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    size = checkpoint.LARGEST_HEADER + 1
    (tmp_path / "bomb").write_bytes(size.to_bytes(8, "little"))
    os.truncate(tmp_path / "bomb", size + 8)
    with pytest.raises(CheckpointError, match="header is larger than that of any"):
        checkpoint.load(tmp_path / "bomb")


@pytest.mark.parametrize("position", [-1, 625, 10**9])
def test_numpy_reads_nowhere_else(position: int) -> None:
    state = global_generators("cpu")
    state["numpy"]["state"]["pos"] = position
    with pytest.raises(ValueError, match="a position of"):
        restore_global_generators(state, "cpu")
