"""A tracker that keeps what it is told, as a plugin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trpo_cli.run.trackers import Tracker

SAID: list[tuple[str, Any]] = []


class Recorder(Tracker):
    """Writes into `SAID`; raises where it is told to."""

    def __init__(self, *, fails: str = "nowhere") -> None:
        self.fails = fails

    def begin(self, config: dict[str, Any], directory: Path, env_steps: int) -> None:
        self._say("begin", (config["seed"], directory.name, env_steps))

    def write(self, row: dict[str, float]) -> None:
        self._say("write", row)

    def close(self, error: BaseException | None) -> None:
        self._say("close", error)

    def _say(self, what: str, told: Any) -> None:
        if what in self.fails.split():
            raise OSError("the line is dead")
        SAID.append((what, told))
