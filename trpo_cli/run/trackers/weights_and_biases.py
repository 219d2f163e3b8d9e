"""Weights & Biases, https://wandb.ai."""

from __future__ import annotations

import importlib
import re
import secrets
from pathlib import Path
from typing import Any, Literal

from trpo_cli.errors import ConfigError, RunDirectoryError
from trpo_cli.run.trackers import Tracker
from trpo_cli.shell import short_path

FOLDER, IDENTITY = "wandb", "run_id"
INSTALL = "pip install 'trpo-cli[wandb]'"


class WeightsAndBiases(Tracker):
    """Logs a run directory as one run, however often it is resumed; the file `wandb/run_id` holds its id."""

    def __init__(
        self, *, project: str, entity: str | None, group: str | None, mode: Literal["online", "offline"] | None
    ) -> None:
        """Raises `ConfigError` if wandb is not installed."""
        try:
            self._wandb = importlib.import_module("wandb")
        except ImportError as error:
            raise ConfigError(f"logger: wandb is not installed: {INSTALL}") from error
        self._options = {"project": project, "entity": entity, "group": group, "mode": mode}

    def begin(self, config: dict[str, Any], directory: Path, env_steps: int) -> None:
        """Raises `ConfigError` if there is no account or no network."""
        folder = directory / FOLDER
        if folder.is_symlink():
            raise RunDirectoryError(f"{folder} is a link; for safety, a run uses only files inside its directory")
        folder.mkdir(exist_ok=True)
        try:
            self._run = self._wandb.init(
                **self._options,
                id=load_run_id(folder / IDENTITY),
                name=str(short_path(directory)),
                dir=str(directory),
                config=config,
                resume="allow",
                settings=self._wandb.Settings(console="off", silent=True),
            )
        except self._wandb.errors.Error as error:
            raise ConfigError(
                f"logger: Weights & Biases: {str(error).splitlines()[0]}\n"
                "logger.mode=offline needs neither network nor account; `wandb sync` uploads the run later"
            ) from error
        self._run.define_metric(
            "*", step_metric="env_steps"
        )  # its default, the number of rows, would be wrong in a resumed run

    def write(self, row: dict[str, float]) -> None:
        self._run.log(row)

    def close(self, error: BaseException | None) -> None:
        self._run.finish(exit_code=0 if error is None else 1)


def load_run_id(path: Path) -> str:
    """The id in the file `path`, which is created if missing. Raises `RunDirectoryError` if it holds anything else."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise RunDirectoryError(f"{path} is not a regular file")
    if not path.exists():
        path.write_text(f"{secrets.token_hex(4)}\n", encoding="utf-8")
    found = path.read_text(encoding="utf-8").strip()
    if not re.fullmatch(r"[0-9a-f]{8}", found):
        raise RunDirectoryError(f"{path} does not hold the id of a Weights & Biases run")
    return found
