"""`make install` says what it does, while it does it, and nothing where there is nothing to do."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
VENV = """#!/bin/sh
[ "$1" = -c ] && exit 0
mkdir -p "$3/bin"
cp "$(dirname "$0")/pip" "$3/bin/python"
"""
PIP = """#!/bin/sh
echo "Collecting torch"
echo "Downloading small-1.whl (30 kB)"
echo "Downloading torch-2.whl (700.1 MB)"
echo "Installing collected packages: a, b, c"
echo "Successfully installed a b c"
exit {}
"""


def make(directory: Path, status: int) -> subprocess.CompletedProcess[str]:
    """`make install` with an interpreter whose environments have a `pip` that ends so."""
    for name, text in (("python", VENV), ("pip", PIP.format(status))):
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    command = ["make", "install", f"PYTHON={directory}/python", f"VENV={directory}/venv"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_an_installation_says_what_it_does(tmp_path: Path) -> None:
    done = make(tmp_path, 0)
    assert (done.returncode, done.stderr) == (0, "")
    begins, *downloads, ends = done.stdout.splitlines()
    assert begins.startswith(f"installing the tested versions into {tmp_path}/venv: a few minutes")
    assert downloads == ["  torch-2.whl (700.1 MB)", "  installing 3 packages"]
    assert ends == f"installed; now type:  source {tmp_path}/venv/bin/activate   and then:  trpo-train --help"
    again = make(tmp_path, 0)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


@pytest.mark.parametrize("status", [1, 2])
def test_one_that_fails_is_not_done(tmp_path: Path, status: int) -> None:
    for _ in range(2):
        done = make(tmp_path, status)
        assert done.returncode != 0
        assert "installed;" not in done.stdout
