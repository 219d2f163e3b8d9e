"""Wherever Hydra or an environment goes, files lie and hints lead where the command was typed."""

from __future__ import annotations

import os
import shlex
import signal
from pathlib import Path

import pytest
from conftest import Command, after_rows
from test_sweep import SMALL, statuses

WANDERING = ("plugins=[probes]", "env=gym", "env.id=Probe/Wandering-v0", *SMALL[1:])
GONE = {"Hydra": ("hydra.job.chdir=true", *SMALL), "the environment": WANDERING}


@pytest.mark.parametrize("who", GONE)
def test_a_run(
    who: str, trpo_train: Command, trpo_eval: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        after_rows(patch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        stopped = trpo_train(*GONE[who], "hydra.run.dir=run")
    assert stopped.status == 143
    assert Path.cwd() == tmp_path
    plugins = ["plugins=[probes]"] if who != "Hydra" else []
    hint = stopped.err.splitlines()[-1].partition("trpo-train ")[2]
    assert shlex.split(hint) == ["resume=run", *plugins]
    chdir = GONE[who][:1] if who == "Hydra" else []
    done = trpo_train(*shlex.split(hint), *chdir)
    assert done.status == 0, done.err
    assert "the run is in run\nlook at it:  tensorboard --logdir run\nplay it:     trpo-eval run" in done.out
    extend = trpo_train(*shlex.split(hint), *chdir).out.splitlines()[-1].partition("trpo-train ")[2]
    assert shlex.split(extend) == ["resume=run", *plugins, "total_steps=512"]
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    (tmp_path / "run").rename(tmp_path / "first")
    assert trpo_train(*GONE[who], "hydra.run.dir=second").status == 0
    options = ("--episodes", "2", "--max-steps", "9", *(("--plugins", "probes") if plugins else ()))
    played = trpo_eval("first", "second", "--json", "played.json", *options)
    assert played.status == 0, played.out
    assert ", first\n" in played.out
    assert (tmp_path / "played.json").exists()


@pytest.mark.parametrize("who", [pytest.param(who, marks=pytest.mark.slow if who != "Hydra" else ()) for who in GONE])
def test_a_sweep(who: str, trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = ("-m", *GONE[who], "seed=0,1", "sweep.report=true")
    with monkeypatch.context() as patch:
        after_rows(patch, 6, lambda: os.kill(os.getpid(), signal.SIGTERM))
        stopped = trpo_train(*sweep, "hydra.sweep.dir=sweep")
    assert stopped.out.endswith("sweep.resume=sweep\n")
    assert Path.cwd() == tmp_path
    done = trpo_train(*sweep, "sweep.resume=sweep")
    assert done.status == 0, done.err
    assert [job["status"] for job in statuses(tmp_path / "sweep").values()] == ["finished"] * 2
    assert "written to sweep/report: report.html" in done.out
    curves = (tmp_path / "sweep" / "report" / "learning_curves.svg").read_text()
    assert curves.count('<g id="axes_') == 1, "the panel that trpo-report draws"
    assert {path.name for path in tmp_path.iterdir()} == {"sweep"}


def test_a_run_that_cannot_begin_leaves_nothing_behind(trpo_train: Command, tmp_path: Path) -> None:
    done = trpo_train("hydra.job.chdir=true", *SMALL, "algo.gamma=7")
    assert done.status == 1
    assert not list(tmp_path.iterdir())
