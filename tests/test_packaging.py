"""The wheel carries the configuration, and works where there is no source tree."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHORT = ["total_steps=64", "sampler.num_envs=2", "sampler.steps_per_iteration=64", "eval.every=0", "hydra.run.dir=run"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(directory.glob("*.whl"))


def train(environment: Path, directory: Path) -> None:
    """One iteration by the console script of `environment`, in `directory`."""
    done = subprocess.run([environment / "bin" / "trpo-train", *SHORT], cwd=directory, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (directory / "run" / "summary.json").is_file()


def test_the_wheel_holds_every_yaml_and_script(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert {f"trpo_cli/report/{name}" for name in ("page.html", "published.yaml", "human.yaml")} <= packed
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"trpo_cli/{path.relative_to(ROOT)}" in packed
    scripts = [str(path.relative_to(ROOT)) for path in (ROOT / "trpo_cli").rglob("completion.*sh")]
    assert scripts
    assert packed >= set(scripts)


def test_the_wheel_trains_without_the_source_tree(wheel: Path, tmp_path: Path) -> None:
    """A new environment that sees this one's dependencies, but not its editable installation."""
    venv.create(tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    site = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel]
    subprocess.run(command, check=True, capture_output=True)
    where = "import trpo_cli; print(trpo_cli.__file__)"
    found = subprocess.run([python, "-c", where], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert str(site) in found
    train(tmp_path / "env", tmp_path)


@pytest.mark.slow
def test_the_wheel_installs_everything_it_needs(wheel: Path, tmp_path: Path) -> None:
    """A bare environment, with the tested versions."""
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    command = [python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel]
    subprocess.run(command, check=True, capture_output=True)
    train(tmp_path / "env", tmp_path)
