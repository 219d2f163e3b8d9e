"""The run directory: one process at a time, plain files only, a log of what was said, and a summary at the end."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from trpo_cli.errors import RunDirectoryError
from trpo_cli.run.directory import Run, git_revision
from trpo_cli.run.layout import read_config
from trpo_cli.run.lock import Lock
from trpo_cli.run.progress import Progress
from trpo_cli.run.state import RUNNING, headline, state

CONFIG = {"env": {"id": "x", "small": 1e-8}, "policy": {}, "seed": 0, "total_steps": 1, "choices": {"algo": "trpo"}}
CONFIG["plugins"] = []


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    with Run(tmp_path / "run"), pytest.raises(RunDirectoryError, match=f"is being written to by process {os.getpid()}"):
        Run(tmp_path / "run")
    with Run(tmp_path / "run"):
        pass
    assert list((tmp_path / "run").iterdir()) == []


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    holder = "import sys, os; from pathlib import Path; from trpo_cli.run.lock import Lock\n"
    holder += "lock = Lock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", holder, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(RunDirectoryError, match=f"process {process.pid} on "):
            Lock(tmp_path / ".lock")
        process.kill()
    assert (tmp_path / ".lock").exists()
    Lock(tmp_path / ".lock").release()


def test_a_link_for_a_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("text")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(RunDirectoryError, match="cannot be written"):
        Run(tmp_path / "run")
    assert (tmp_path / "precious").read_text() == "text"


@pytest.mark.parametrize("name", ["config.yaml", "summary.json"])
def test_a_link_in_place_of_a_temporary_file_is_not_followed(tmp_path: Path, name: str) -> None:
    (tmp_path / "precious").write_text("text")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / f".{name}.tmp").symlink_to(tmp_path / "precious")
    with Run(tmp_path / "run") as run:
        run.begin(CONFIG)
        run.finish({})
    assert (tmp_path / "precious").read_text() == "text"
    assert not (tmp_path / "run" / name).is_symlink()


def test_a_place_that_cannot_be_written_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunDirectoryError, match="cannot be written: Not a directory"):
        Run(tmp_path / "file" / "run")


def test_the_configuration_reads_back(tmp_path: Path) -> None:
    with Run(tmp_path / "run") as run:
        run.begin(CONFIG)
    assert read_config(tmp_path / "run") == CONFIG


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("!!python/object/apply:os.system [touch hacked]", "there is no such tag"),
        ("!!python/name:os.system", "there is no such tag"),
        ("env: &a [1]\npolicy: *a\nseed: 0\nchoices: {}", "it has YAML aliases"),
        ("env: " + "[" * 5000, "nested too deeply"),
        ("env: " + "[" * 300 + "]" * 300, "nested too deeply"),
        ("env: {null: 2}", "the key None is not a name"),
        ("env: !!set {a}", "it holds a set"),
        ("seed: 0\n" + "#" * 1_000_001, "too large"),
        ("just text", "is not the configuration of a run"),
        ("env: {}\npolicy: {}\nseed: 0\nplugins: []\ntotal_steps: 1\nchoices: 5", "is not the configuration of a run"),
        ("- 1", "is not the configuration of a run"),
        ("\x00", "line 1, column 1: the character"),
    ],
)
def test_a_configuration_is_plain_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(RunDirectoryError, match=said):
        read_config(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_pipes_and_links_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    (tmp_path / "checkpoints").mkdir()
    os.mkfifo(tmp_path / "checkpoints" / "step_1.safetensors")
    with pytest.raises(RunDirectoryError, match=r"step_1.safetensors is not a regular file"):
        read_config(tmp_path)
    (tmp_path / "checkpoints" / "step_1.safetensors").unlink()
    (tmp_path / "checkpoints" / "step_1.safetensors").symlink_to("/dev/zero")
    with pytest.raises(RunDirectoryError, match=r"step_1.safetensors is a link"):
        Run(tmp_path)
    (tmp_path / "checkpoints" / "step_1.safetensors").unlink()
    assert read_config(tmp_path) == CONFIG


def test_the_log_closes_with_the_run(tmp_path: Path) -> None:
    log = logging.getLogger("trpo_cli")
    log.setLevel(logging.INFO)

    def fail() -> None:
        with Run(tmp_path / "run") as run:
            run.begin(CONFIG)
            log.info("inside")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    log.info("outside")
    text = (tmp_path / "run" / "train.log").read_text()
    assert "inside" in text
    assert "ZeroDivisionError" in text
    assert "outside" not in text


def test_the_oldest_checkpoints_go(tmp_path: Path) -> None:
    with Run(tmp_path / "run") as run:
        run.begin(CONFIG)
        for step in (0, 5, 20, 100):
            run.save({"step": step}, step, keep=2)
        assert run.saved == 100
    names = [path.name for path in sorted((tmp_path / "run" / "checkpoints").iterdir())]
    assert names == ["step_000000000020.safetensors", "step_000000000100.safetensors"]
    with Run(tmp_path / "run") as run:
        state = run.load()
    assert state is not None
    assert state["step"] == 100
    assert state["git_revision"] == git_revision()


def test_other_versions_are_told(tmp_path: Path) -> None:
    with Run(tmp_path / "run") as run:
        run.begin(CONFIG)
        run.provenance["versions"]["torch"] = "0.1"
        run.save({}, 0, keep=1)
    with Run(tmp_path / "run") as run:
        run.load()
    assert len(run.warnings) == 1
    assert "was 0.1 before" in run.warnings[0]


def test_the_summary_names_versions(tmp_path: Path) -> None:
    with Run(tmp_path / "run") as run:
        run.begin(CONFIG)
        run.finish({"final_training_return": None})
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["versions"].keys() >= {"python", "torch", "gymnasium", "mujoco", "trpo-cli"}
    assert summary["git_revision"] == git_revision()


def test_progress_and_state_follow_the_headline(tmp_path: Path) -> None:
    """Whatever it is called; a run that does not name it is known by its columns."""
    progress = Progress()
    for steps, value in ((1, 0.5), (2, 0.75), (3, 0.25)):
        metrics = {"my/return": value, "eval/episode_return_mean": None, "exact/return": 9.0}
        progress.note(steps, metrics, "my/return")
    assert (progress.env_steps, progress.iterations) == (3, 3)
    assert (progress.final_training_return, progress.best_training_return) == (0.25, 0.75)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "metrics.csv").write_text("env_steps,rollout/episode_return_mean,exact/return,my/return\n3,,9,0.25\n")
    assert state(tmp_path).final_training_return == 9
    (tmp_path / "headline.txt").write_text("my/return\n")
    assert state(tmp_path).final_training_return == 0.25
    (tmp_path / "metrics.csv").write_text("env_steps,exact/return,my/return\n3,9,\n")
    assert state(tmp_path).final_training_return is None, "there is no value of it yet"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"\xff\x00\x9f",
        b"x" * 300,
        b"<b>\n",
        b"my/return\nenv_steps\n",
        b"my/retrun\n",
    ],
    ids=["empty", "blank", "binary", "long", "markup", "several lines", "no column"],
)
def test_a_headline_that_is_not_the_plain_name_of_a_column_counts_for_nothing(tmp_path: Path, content: bytes) -> None:
    columns = ["env_steps", "exact/return", "my/return", "<b>", "x" * 300]
    (tmp_path / "metrics.csv").write_text(f"{','.join(columns)}\n3,9,0.25,1,2\n")
    (tmp_path / "headline.txt").write_bytes(content)
    assert headline(tmp_path, columns, columns) == "exact/return"
    with Run(tmp_path):
        running = state(tmp_path)
    assert (running.status, running.final_training_return) == (RUNNING, 9)
