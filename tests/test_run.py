"""The run directory: claimed once, and its log holds what was said."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from trpo_cli.errors import RunDirectoryError
from trpo_cli.run import Run, git_revision


def test_a_directory_is_claimed_by_the_first(tmp_path: Path) -> None:
    Run(tmp_path / "run", "seed: 0\n", keep=1)
    with pytest.raises(RunDirectoryError, match="holds a run already"):
        Run(tmp_path / "run", "seed: 1\n", keep=1)
    assert (tmp_path / "run" / "config.yaml").read_text() == "seed: 0\n"


def test_a_place_that_cannot_be_written_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunDirectoryError, match="cannot be written: Not a directory"):
        Run(tmp_path / "file" / "run", "", keep=1)


def test_the_log_closes_with_the_run(tmp_path: Path) -> None:
    log = logging.getLogger("trpo_cli")
    log.setLevel(logging.INFO)

    def fail() -> None:
        with Run(tmp_path / "run", "", keep=1):
            log.info("inside")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    log.info("outside")
    text = (tmp_path / "run" / "train.log").read_text()
    assert "inside" in text
    assert "ZeroDivisionError" in text
    assert "outside" not in text


def test_the_summary_names_versions(tmp_path: Path) -> None:
    with Run(tmp_path / "run", "", keep=1) as run:
        run.finish({"final_training_return": None})
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["versions"].keys() >= {"python", "torch", "gymnasium", "mujoco", "trpo-cli"}
    assert summary["git_revision"] == git_revision()
