"""A run directory: claimed by one run, holding everything it writes. `runs/README.md` names each file."""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from trpo_cli import checkpoint
from trpo_cli.errors import RunDirectoryError

log = logging.getLogger("trpo_cli")
PACKAGES = ("trpo-cli", "torch", "gymnasium", "mujoco", "numpy", "hydra-core")


class Run:
    """Use as a context manager: `train.log` receives every log record of the program until it closes."""

    def __init__(self, directory: Path, config: str, keep: int) -> None:
        """Claim `directory` by writing `config` (YAML text) into it; keep the newest `keep` checkpoints.

        Raises `RunDirectoryError` if a run lives there already, or nothing can be written.
        """
        self.directory, self.keep = directory, keep
        self.provenance = {
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            "git_revision": git_revision(),
        }
        self.checkpoints = directory / "checkpoints"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with open(directory / "config.yaml", "x", encoding="utf-8") as file:
                file.write(config)
            self.checkpoints.mkdir()
        except FileExistsError as error:
            raise RunDirectoryError(
                f"{directory} holds a run already; choose another directory with hydra.run.dir=DIR"
            ) from error
        except OSError as error:
            raise RunDirectoryError(f"{directory}: cannot be written: {error.strerror}") from error

    def save(self, state: dict[str, Any], env_steps: int) -> None:
        """Write a checkpoint, then drop the oldest beyond `keep`."""
        checkpoint.save(self.checkpoints / f"step_{env_steps:012d}{checkpoint.SUFFIX}", state)
        for old in sorted(self.checkpoints.glob(f"step_*{checkpoint.SUFFIX}"))[: -self.keep]:
            old.unlink()

    def finish(self, summary: dict[str, Any]) -> None:
        """Write `summary.json`: what was reached, and which versions it was begun with."""
        temporary = self.directory / ".summary.json.tmp"
        temporary.write_text(json.dumps({**summary, **self.provenance}, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, self.directory / "summary.json")

    def __enter__(self) -> Self:
        self._handler = logging.FileHandler(self.directory / "train.log", encoding="utf-8")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(self._handler)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            log.error("the run ended early", exc_info=(type(error), error, trace))
        log.removeHandler(self._handler)
        self._handler.close()


def git_revision() -> str | None:
    """The commit of the source tree this program runs from, `+changes` if files differ; None outside a checkout."""
    source = Path(__file__).parent
    command = ["git", "-C", str(source), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"]
    try:
        tracked = subprocess.run([*command[:3], "ls-files", "--error-unmatch", __file__], capture_output=True)
        if tracked.returncode:
            return None
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
