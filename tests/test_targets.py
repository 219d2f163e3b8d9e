"""What a command is to write is refused before any work, or appears complete or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Command, small_disk

from trpo_cli.cli.targets import check_targets, write_new
from trpo_cli.errors import UserError


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run, a file, and a link to nowhere."""
    monkeypatch.chdir(tmp_path)
    for folder in ("run/checkpoints/best", "run/tensorboard", "checkpoints"):
        Path(folder).mkdir(parents=True)
    Path("run/config.yaml").touch()
    Path("file").touch()
    Path("dangling").symlink_to("nowhere")
    Path("linked").symlink_to("run/checkpoints")


REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "a file": ({"--json": "file"}, "--json: file already exists and is not overwritten"),
    "a dangling link": ({"--json": "dangling"}, "--json: dangling already exists and is not overwritten"),
    "below a file": ({"--json": "file/new/a"}, "--json: file/new/a cannot be written: Not a directory"),
    "below a dangling link": ({"--json": "dangling/a"}, "--json: dangling/a cannot be written: No such file or dir"),
    "in /proc": ({"--record": "/proc/new/a"}, "--record: /proc/new/a cannot be written: "),
    "another format": ({"--onnx": "a.pt"}, "--onnx: got a.pt, but its name has to end in .onnx"),
    "no format": ({"--video": "a"}, "--video: got a, but its name has to end in .mp4"),
    "the same path": ({"--json": "a", "--record": "run/../a"}, "--record: run/../a does not go with --json a; write"),
    "a path below": ({"--json": "a/b", "--record": "a"}, "--record: a does not go with --json a/b; write"),
    "among checkpoints": (
        {"--record": "run/checkpoints/a"},
        "--record: got run/checkpoints/a, but the run run keeps its own files",
    ),
    "below them": ({"--json": "run/checkpoints/best/new/a"}, "--json: got .*, but the run run keeps its own files"),
    "through a link": ({"--pt2": "linked/a.pt2"}, "--pt2: got linked/a.pt2, but the run run keeps its own files"),
    "a summary": ({"--json": "run/summary.json"}, "--json: got run/summary.json, but the run run keeps its own files"),
    "among events": (
        {"--torchscript": "run/tensorboard/a.pt"},
        "--torchscript: got .*, but the run run keeps its own files",
    ),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_places_that_do_not_do_are_refused(mistake: str, tmp_path: Path) -> None:
    targets, said = REFUSED[mistake]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=f"^{said}"):
        check_targets({option: Path(path) for option, path in targets.items()})
    assert sorted(tmp_path.rglob("*")) == before


def test_other_places_are_accepted_and_left_as_they_are(tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    targets = {"--onnx": "run/a.onnx", "--torchscript": "new/a.pt", "--pt2": "new/a.pt2", "--json": "checkpoints/a"}
    check_targets({option: Path(path) for option, path in targets.items()})
    assert sorted(tmp_path.rglob("*")) == before


def test_commands_check_before_any_work(trpo_eval: Command, trpo_export: Command) -> None:
    for option in ("--json", "--record"):
        said = f"error: {option}: got run/checkpoints/a, but the run run keeps its own files there"
        assert trpo_eval("run", option, "run/checkpoints/a").err == said
    assert trpo_eval("run", "--json", "a", "--record", "a").err.startswith("error: --record: a does not go with --json")
    assert trpo_export("run", "--pt2", "a").err == "error: --pt2: got a, but its name has to end in .pt2"


def test_a_file_is_complete_or_absent() -> None:
    with small_disk(1000):
        write_new("--json", Path("new/a"), b"1" * 1000)
        with pytest.raises(UserError, match=r"^--json: new/b cannot be written: File too large$"):
            write_new("--json", Path("new/b"), b"1" * 1001)
    with pytest.raises(UserError, match=r"^--json: new/a already exists and is not overwritten$"):
        write_new("--json", Path("new/a"), b"2")
    assert Path("new/a").read_bytes() == b"1" * 1000
    assert [path.name for path in Path("new").iterdir()] == ["a"]
