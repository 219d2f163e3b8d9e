"""Weights & Biases: https://wandb.ai."""

from __future__ import annotations

import importlib
import re
import secrets
from pathlib import Path
from typing import Any, Literal

from trpo_cli.errors import ConfigError, RunDirectoryError
from trpo_cli.run.layout import relative
from trpo_cli.run.trackers import Tracker

FOLDER, IDENTITY = "wandb", "run_id"
INSTALL = "pip install 'trpo-cli[wandb]'"


class WeightsAndBiases(Tracker):
    """One run there for one run directory, however often it is resumed: `wandb/run_id` keeps its id."""

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
            raise RunDirectoryError(f"{folder} is a link, and is left alone: a run holds its files itself")
        folder.mkdir(exist_ok=True)
        try:
            self._run = self._wandb.init(
                **self._options,
                id=identity(folder / IDENTITY),
                name=str(relative(directory)),
                dir=str(directory),
                config=config,
                resume="allow",
                settings=self._wandb.Settings(console="off", silent=True),
            )
        except self._wandb.errors.Error as error:
            raise ConfigError(
                f"logger: Weights & Biases: {str(error).splitlines()[0]}\n"
                "logger.mode=offline needs neither network nor account, and `wandb sync` sends it later"
            ) from error
        self._run.define_metric("*", step_metric="env_steps")  # its own count of rows would not fit a resumed run

    def write(self, row: dict[str, float]) -> None:
        self._run.log(row)

    def close(self, error: BaseException | None) -> None:
        self._run.finish(exit_code=0 if error is None else 1)


def identity(path: Path) -> str:
    """The id that is kept at `path`, made if need be. Raises `RunDirectoryError` if there is something else."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise RunDirectoryError(f"{path} is no plain file, and is left alone")
    if not path.exists():
        path.write_text(f"{secrets.token_hex(4)}\n", encoding="utf-8")
    found = path.read_text(encoding="utf-8").strip()
    if not re.fullmatch(r"[0-9a-f]{8}", found):
        raise RunDirectoryError(f"{path} holds no id of Weights & Biases")
    return found
