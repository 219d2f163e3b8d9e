"""The commands as modules, and with standard streams that the shell has closed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from test_sweep import SMALL, statuses

MODULES = {
    "trpo_cli": "trpo-train",
    "trpo_cli.train": "trpo-train",
    "trpo_cli.evaluate": "trpo-eval",
    "trpo_cli.export": "trpo-export",
    "trpo_cli.report": "trpo-report",
}


def closed(redirection: str, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command whose shell has closed some of its streams."""
    script = f'exec "$@" {redirection}'
    command = ["sh", "-c", script, "sh", sys.executable, "-m", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("module", MODULES)
def test_modules_are_the_commands(module: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert MODULES[module] in done.stdout


def test_a_mistake_has_its_status(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "trpo_cli", "seed=x"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: seed: got 'x'")
    assert closed("2>&-", "trpo_cli", "seed=x", folder=tmp_path).returncode == 1


def test_closed_streams_lose_no_run(tmp_path: Path) -> None:
    """Descriptors of files that a run writes are never those of its streams, also in its worker processes."""
    words = ("trpo_cli", *SMALL, "sampler.vectorization=async", "hydra.run.dir=run")
    assert closed("<&- >&- 2>&-", *words, folder=tmp_path).returncode == 0
    assert (tmp_path / "run" / "summary.json").exists()
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 5


@pytest.mark.slow
def test_closed_streams_lose_no_result(tmp_path: Path) -> None:
    done = closed("2>&-", "trpo_cli", *SMALL, "hydra.run.dir=run", folder=tmp_path)
    assert "the run is in run" in done.stdout
    assert closed(">&-", "trpo_cli.report", "run", folder=tmp_path).returncode == 0
    assert "written to run/report" in closed("2>&-", "trpo_cli.report", "run", folder=tmp_path).stdout
    assert closed(">&-", "trpo_cli.evaluate", "run", "--json", "played.json", folder=tmp_path).returncode == 0
    assert (tmp_path / "played.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_closed_streams_lose_no_sweep(launcher: str, tmp_path: Path) -> None:
    for redirection in ("2>&-", ">&-"):
        place = f"sweep_{len(redirection)}"
        words = ("trpo_cli", "-m", *SMALL, "seed=0,1", f"hydra/launcher={launcher}", f"hydra.sweep.dir={place}")
        assert closed(redirection, *words, folder=tmp_path).returncode == 0
        assert [job["status"] for job in statuses(tmp_path / place).values()] == ["finished"] * 2
