"""Checkpoints: a save is whole or not there, the newest whole one is found, and strangers' files do no harm."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command
from exactness import exactly

from trpo_cli.errors import CheckpointError, NewerCheckpointError
from trpo_cli.run import checkpoint


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
    assert exactly(loaded["plain"], saved["plain"])
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


STEP = "step_{:012d}.safetensors"


def empty(version: str) -> bytes:
    """A file of that version, which holds what is not known here."""
    header = json.dumps({"__metadata__": {"version": version, "new": "thing"}, "x": {"kind": "unknown"}}).encode()
    return len(header).to_bytes(8, "little") + header + b"new bytes"


@pytest.mark.parametrize("version", ["2", "0", "-1"])
def test_an_older_format_is_said_to_be_so(tmp_path: Path, version: str) -> None:
    path = tmp_path / STEP.format(1)
    path.write_bytes(empty(version))
    said = rf"{path}: has format {version}, which this program no longer reads$"
    for attempt in (lambda: checkpoint.load(path), lambda: checkpoint.load_newest(tmp_path)):
        with pytest.raises(CheckpointError, match=said):
            attempt()


def test_a_newer_format_is_said_to_be_so(tmp_path: Path) -> None:
    path = tmp_path / STEP.format(2)
    path.write_bytes(empty("99"))
    checkpoint.save(tmp_path / STEP.format(1), {})
    for attempt in (lambda: checkpoint.load(path), lambda: checkpoint.load_newest(tmp_path)):
        with pytest.raises(NewerCheckpointError, match=r"has format 99; this program reads up to 3; update trpo-cli$"):
            attempt()


# Faults while saving


class Killed(BaseException):
    """Nothing that runs after it counts: the program is gone."""


CALLS = [("unlink", 0), ("open", 0), ("write", 0), ("fsync", 0), ("close", 0)]
CALLS += [("replace", 0), ("open", 1), ("fsync", 1), ("close", 1)]


def fail(monkeypatch: pytest.MonkeyPatch, name: str, at: int, error: BaseException) -> None:
    """Let the call of `os.name` with that number raise; a write first writes a part."""
    real: Callable[..., Any] = getattr(os, name)
    calls = iter(range(100))

    def faulty(*arguments: Any) -> Any:
        if next(calls) == at:
            if name == "write":
                real(arguments[0], arguments[1][:50])
            raise error
        return real(*arguments)

    monkeypatch.setattr(checkpoint.os, name, faulty)


@pytest.mark.parametrize("killed", [False, True], ids=["full", "killed"])
@pytest.mark.parametrize(("name", "at"), CALLS)
def test_a_fault_anywhere_in_a_save_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, at: int, killed: bool
) -> None:
    before, after = tmp_path / STEP.format(1), tmp_path / STEP.format(2)
    checkpoint.save(before, {"steps": 1})
    checkpoint.save(after, {"steps": 2})
    with monkeypatch.context() as context:
        fail(context, name, at, Killed() if killed else OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        said = r"00002.safetensors: cannot be saved: No space left on device; earlier checkpoints are intact$"
        with pytest.raises(Killed if killed else CheckpointError, match=None if killed else said):
            checkpoint.save(after, state())
    assert killed or len(list(tmp_path.iterdir())) == 2
    checkpoint.remove_temporary_files(tmp_path)
    assert checkpoint.list_checkpoints(tmp_path) == [before, after] == sorted(tmp_path.iterdir())
    replaced = at == 1  # what fails then is the directory's sync
    assert exactly(checkpoint.load(before), {"steps": 1})
    assert checkpoint.load(after).keys() == (state().keys() if replaced else {"steps"})
    checkpoint.save(after, {"steps": 3})
    assert checkpoint.load_newest(tmp_path) == (after, {"steps": 3}, {})


def test_a_write_in_pieces_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(checkpoint.os, "write", lambda file, data: real(file, data[:100]))
    checkpoint.save(tmp_path / "a", {"weight": torch.arange(500)})
    assert torch.equal(checkpoint.load(tmp_path / "a")["weight"], torch.arange(500))


def test_a_directory_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be saved: No such file or directory; earlier checkpoints"):
        checkpoint.save(tmp_path / "gone" / "step_1.safetensors", {})
    checkpoint.remove_temporary_files(tmp_path / "gone")


def test_sweeping_and_saving_leave_strangers_files_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    for name in (".step_x.safetensors.tmp", "step_1.safetensors.tmp", ".step_1.safetensors.tmp.bak"):
        (tmp_path / name).write_text("")
    (tmp_path / f".{STEP.format(1)}.tmp").symlink_to(tmp_path / "mine")
    names = sorted(os.listdir(tmp_path))
    checkpoint.remove_temporary_files(tmp_path)
    assert sorted(os.listdir(tmp_path)) == names
    checkpoint.save(tmp_path / STEP.format(1), {})
    assert (tmp_path / "mine").read_text() == "mine"


# The newest that is whole


def test_the_newest_whole_one_is_loaded_and_the_others_named(tmp_path: Path) -> None:
    for steps in (9, 100, 20):
        checkpoint.save(tmp_path / f"step_{steps}.safetensors", {"steps": steps})
    (tmp_path / "step_200 (copy).safetensors").write_text("not ours")
    assert checkpoint.load_newest(tmp_path) == (tmp_path / "step_100.safetensors", {"steps": 100}, {})
    (tmp_path / "step_100.safetensors").write_bytes(b"")
    (tmp_path / "step_101.safetensors").symlink_to("step_20.safetensors")
    path, state, damaged = checkpoint.load_newest(tmp_path)
    assert (path.name, state) == ("step_20.safetensors", {"steps": 20})
    assert [str(error).split("/")[-1] for error in damaged.values()] == [
        "step_101.safetensors: is not a regular file, but a symbolic link",
        "step_100.safetensors: is not a complete checkpoint: the file ends within its header",
    ]


def test_where_none_is_whole_each_is_named(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "gone"):
        with pytest.raises(CheckpointError, match=r": holds no checkpoint$"):
            checkpoint.load_newest(directory)
    for steps in (1, 2):
        (tmp_path / STEP.format(steps)).write_text("junk, but long enough")
    with pytest.raises(
        CheckpointError, match=r"holds no complete checkpoint\n.*02.safetensors: .*\n.*01.safetensors: "
    ):
        checkpoint.load_newest(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read: Not a directory"):
        checkpoint.load_newest(tmp_path / STEP.format(1))


def test_evaluation_passes_over_a_damaged_one_and_says_so(
    trpo_train: Command, trpo_eval: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = (
        "total_steps=128",
        "sampler.num_envs=2",
        "sampler.steps_per_iteration=64",
        "eval.every=0",
        "checkpoint.every=1",
    )
    assert trpo_train("env=CartPole-v1", *small, "hydra.run.dir=run").status == 0
    newest = checkpoint.list_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING, "trpo_cli"):
        done = trpo_eval("run", "--episodes", "1")
    assert done.status == 0, done.err
    assert "64 | CartPole-v1, run" in done.out
    assert f"skipped a damaged checkpoint: {newest.relative_to(tmp_path)}: is not a complete" in caplog.text
