"""Checkpoints: everything comes back, every kind of damage is found, nothing in them is code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trpo_cli import checkpoint
from trpo_cli.errors import CheckpointError


def state() -> dict[str, object]:
    parameter = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    parameter.sum().backward()
    optimizer.step()
    return {
        "policy": {
            "weight": parameter.detach(),
            "transposed": torch.arange(6).reshape(2, 3).T,
            "scalar": torch.tensor(7.5),
        },
        "optimizer": optimizer.state_dict(),
        "generator": torch.Generator().manual_seed(3).get_state(),
        "big": 2**127 + 1,
        "plain": [1, 0.1, None, True, "text", {"nested": []}],
        "not a number": float("nan"),
    }


def test_round_trip_is_exact(tmp_path: Path) -> None:
    path, saved = tmp_path / "step_1.safetensors", state()
    checkpoint.save(path, saved)
    loaded = checkpoint.load(path)
    assert loaded["big"] == 2**127 + 1
    assert loaded["plain"] == saved["plain"]
    assert loaded["not a number"] != loaded["not a number"]
    for name, tensor in saved["policy"].items():  # type: ignore[attr-defined]
        assert torch.equal(loaded["policy"][name], tensor)
        assert loaded["policy"][name].dtype == tensor.dtype
    assert loaded["optimizer"]["state"][0]["exp_avg"].any()
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(2, 3))], lr=9.0)
    optimizer.load_state_dict(loaded["optimizer"])
    assert optimizer.param_groups[0]["lr"] == 0.1
    torch.Generator().set_state(loaded["generator"])


def test_only_the_finished_file_is_left(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "step_1.safetensors", state())
    checkpoint.save(tmp_path / "step_1.safetensors", {"second": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["step_1.safetensors"]
    assert checkpoint.load(tmp_path / "step_1.safetensors") == {"second": 1}


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "step_1.safetensors"
    checkpoint.save(path, {"first": 1})
    with pytest.raises(TypeError, match="cannot hold parts/odd: set"):
        checkpoint.save(path, {"parts": {"odd": {1, 2}}})
    assert checkpoint.load(path) == {"first": 1}


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    """In the header's padding alone a changed byte may pass: it carries nothing."""
    path = tmp_path / "step_1.safetensors"
    checkpoint.save(path, {"weight": torch.arange(8.0), "count": 3})
    data = path.read_bytes()
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(bytes(damaged))
        try:
            loaded = checkpoint.load(path)
        except CheckpointError:
            continue
        assert torch.equal(loaded["weight"], torch.arange(8.0))
        assert loaded["count"] == 3


@pytest.mark.parametrize("size", [0, 4, 50, -1])
def test_truncation_is_found(tmp_path: Path, size: int) -> None:
    path = tmp_path / "step_1.safetensors"
    checkpoint.save(path, state())
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match="is no whole checkpoint"):
        checkpoint.load(path)


def test_missing_and_newer_files_are_said_to_be_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(tmp_path / "step_1.safetensors")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        checkpoint.newest(tmp_path)
    monkeypatch.setattr(checkpoint, "VERSION", 99)
    checkpoint.save(tmp_path / "step_1.safetensors", {})
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="has format 99, this program reads up to"):
        checkpoint.load(tmp_path / "step_1.safetensors")


def test_a_pickle_is_not_even_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "step_1.safetensors"
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="is no whole checkpoint"):
        checkpoint.load(path)


def test_the_newest_is_the_one_with_most_steps(tmp_path: Path) -> None:
    for steps in (9, 100, 20):
        checkpoint.save(tmp_path / f"step_{steps:012d}.safetensors", {})
    assert checkpoint.newest(tmp_path).name == "step_000000000100.safetensors"
