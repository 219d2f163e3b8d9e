"""The commands that are printed can be pasted where the user is."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TESTS, Command

from trpo_cli.shell import shell_command

SHORT = ("total_steps=64", "sampler.num_envs=2", "sampler.steps_per_iteration=64", "eval.every=0")


def moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of this interpreter and its commands from now on, which is not on the PATH."""
    place = tmp_path / "an env" / "bin"
    place.mkdir(parents=True)
    for name in ("python", "tensorboard", "trpo-train"):
        (place / name).touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(place / "python"))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(tmp_path)
    return place


def test_a_command_has_its_path_where_a_shell_would_not_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = moved(tmp_path, monkeypatch)
    assert shell_command("tensorboard") == "'an env/bin/tensorboard'"
    assert shell_command("trpo-eval") == "trpo-eval"  # it is somewhere else
    monkeypatch.setenv("PATH", str(installed))
    assert shell_command("tensorboard") == "tensorboard"
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "tensorboard").touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'others'}:{installed}")
    assert shell_command("tensorboard") == "'an env/bin/tensorboard'"


def test_a_command_finds_what_it_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved(tmp_path, monkeypatch)
    assert shell_command("trpo-eval", ["mine"]) == "trpo-eval"
    monkeypatch.setenv("PYTHONPATH", "my code:.")
    assert shell_command("trpo-eval", ["mine"]) == "PYTHONPATH='my code:.' trpo-eval"
    assert shell_command("trpo-eval") == "trpo-eval"


@pytest.mark.slow
def test_what_a_run_and_a_sweep_say_can_be_typed(tmp_path: Path) -> None:
    """Through a shell that knows nothing of the environment, with a package of the user's."""
    bare = {**os.environ, "PATH": "/usr/bin:/bin", "PYTHONPATH": ""}
    place = Path(sys.executable).parent

    def shell(line: str) -> str:
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=bare, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    mine = f"PYTHONPATH={TESTS} {place}/trpo-train plugins=[probes] env=CartPole-v1 {' '.join(SHORT)}"
    told = shell(f"{mine} hydra.run.dir='a run'")
    look, play = (line.partition(":  ")[2].strip() for line in told.splitlines()[-2:])
    assert shlex.split(look) == [str(place / "tensorboard"), "--logdir", "a run"]
    assert "CartPole-v1, a run" in shell(f"{play} --episodes 1")
    again = shell(f"{mine} resume='a run'")
    assert "after 128 steps" in shell(again.splitlines()[-1].partition(":")[2])


def test_the_command_of_a_sweep_goes_on(trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = ("-m", "env=CartPole-v1", *SHORT, "seed=0,1")
    assert trpo_train(*sweep, "hydra.sweep.dir=sweep").status == 0
    moved(tmp_path, monkeypatch)
    words = trpo_train("-m", "sweep.resume=sweep").err.splitlines()[-1].strip()
    assert shlex.split(words) == ["an env/bin/trpo-train", *sweep, "sweep.resume=sweep"]
