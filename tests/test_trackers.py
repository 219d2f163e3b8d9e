"""Where rows go beside the run directory: all of them, once the user says so, and never at the cost of the run."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
import recorder
import yaml
from comparison import assert_same_run
from conftest import Command
from test_resume import SMALL, interrupted

from trpo_cli.run.signals import Stopped

OWN = ("plugins=[recorder]", "+logger._target_=recorder.Recorder")


@pytest.fixture(autouse=True)
def _silence() -> None:
    recorder.SAID.clear()


def said(what: str) -> list[object]:
    return [told for name, told in recorder.SAID if name == what]


def logged(run: Path) -> list[dict[str, float]]:
    with (run / "metrics.csv").open() as file:
        return [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]


def test_a_tracker_of_ones_own_gets_every_row(trpo_train: Command, tmp_path: Path) -> None:
    assert trpo_train(*SMALL, *OWN, "seed=3", "hydra.run.dir=run").status == 0
    assert said("begin") == [(3, "run", 0)]
    assert said("write") == logged(tmp_path / "run")
    assert said("close") == [None]
    assert trpo_train(*SMALL, "seed=3", "hydra.run.dir=silent").status == 0
    assert_same_run(tmp_path / "run", tmp_path / "silent")


def test_one_that_fails_does_not_end_the_run(trpo_train: Command, tmp_path: Path) -> None:
    done = trpo_train(*SMALL, *OWN, "+logger.fails=write", "hydra.run.dir=run")
    assert done.status == 0
    assert done.err.count("Recorder failed and receives no more rows; training continues") == 1
    assert "the line is dead" in (tmp_path / "run" / "train.log").read_text()
    assert len(logged(tmp_path / "run")) == 10
    (reason,) = said("close")
    assert str(reason) == "the line is dead"
    done = trpo_train(*SMALL, *OWN, "+logger.fails='write close'", "hydra.run.dir=both")
    assert done.status == 0
    assert done.err.count("Recorder could not be closed") == 1
    done = trpo_train(*SMALL, *OWN, "+logger.fails=close", "hydra.run.dir=other")
    assert done.status == 0
    assert "the line is dead" in (tmp_path / "other" / "train.log").read_text()
    refused = trpo_train(*SMALL, *OWN, "+logger.fails=begin", "hydra.run.dir=third")
    assert "error: logger: Recorder cannot start: OSError: the line is dead" in refused.err
    assert not (tmp_path / "third").exists()


def test_a_directory_does_not_decide_whom_we_talk_to(
    trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = interrupted(trpo_train, monkeypatch, *SMALL, *OWN, "hydra.run.dir=run")
    assert stopped.status == 143
    (ended,) = said("close")
    assert isinstance(ended, Stopped)
    recorder.SAID.clear()
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("  logger: null", "  logger: wandb"))
    done = interrupted(trpo_train, monkeypatch, "resume=run", "plugins=[recorder]", after=1)
    assert "changed: logger: saved wandb, given null" in done.err
    assert recorder.SAID == []
    assert "logger" not in yaml.safe_load(config.read_text())
    assert trpo_train("resume=run", *OWN).status == 0
    assert said("begin") == [(0, "run", 256)]
    assert said("write") == logged(tmp_path / "run")[4:]


def test_wandb_is_said_to_be_missing(trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    done = trpo_train(*SMALL, "logger=wandb", "hydra.run.dir=run")
    assert "error: logger: wandb is not installed: pip install 'trpo-cli[wandb]'" in done.err
    assert not (tmp_path / "run").exists()


def test_weights_and_biases_is_one_run_however_often_resumed(
    trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    command, run = (*SMALL, "logger=wandb", "logger.mode=offline"), tmp_path / "run"
    interrupted(trpo_train, monkeypatch, *command, "hydra.run.dir=run")
    identity = (run / "wandb" / "run_id").read_text().strip()
    assert trpo_train("resume=run", "logger=wandb", "logger.mode=offline").status == 0
    sent = sorted((run / "wandb").glob(f"offline-run-*-{identity}*/run-{identity}.wandb"))
    assert sent
    assert sum(path.read_bytes().count(b"rollout/episode_return_mean") for path in sent) >= 10
    assert trpo_train(*SMALL, "hydra.run.dir=silent").status == 0
    assert_same_run(run, tmp_path / "silent")
    (run / "wandb" / "run_id").write_text("../../x")
    done = trpo_train("resume=run", "logger=wandb", "logger.mode=offline", "total_steps=1280")
    assert "holds no id of Weights & Biases" in done.err
