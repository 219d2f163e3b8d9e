"""Experiment trackers, which receive the rows of metrics too: `logger=wandb`, or one of your own."""

from __future__ import annotations

import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from trpo_cli.errors import ConfigError, UserError

log = logging.getLogger("trpo_cli")


class Tracker(ABC):
    """A receiver of rows. Its settings are the keyword arguments of its constructor."""

    @abstractmethod
    def begin(self, config: dict[str, Any], directory: Path, env_steps: int) -> None:
        """Prepare for a run with this configuration in this directory, before its first environment step.

        A resumed run continues after `env_steps`. Later rows may have been sent before; they are sent again unchanged.
        An exception ends the run before it starts.
        """

    @abstractmethod
    def write(self, row: dict[str, float]) -> None:
        """Receive a row: `env_steps` and the other columns of `metrics.csv` that have a value."""

    @abstractmethod
    def close(self, error: BaseException | None) -> None:
        """Close the tracker. `error` is what ended the run or was raised by `write`; None if the run has finished.

        This is called once if `begin` has returned. After an error in `write`, its row may be incomplete.
        """


class Tracking:
    """Sends rows to a tracker. If it fails, a warning is logged and training continues; `metrics.csv` has all rows."""

    def __init__(self, tracker: Tracker | None, config: Mapping[str, Any], directory: Path, env_steps: int) -> None:
        """Raises `ConfigError` if the tracker cannot start."""
        self._tracker = tracker
        if tracker is not None:
            try:
                tracker.begin(copy.deepcopy(dict(config)), directory, env_steps)
            except UserError:
                raise
            except Exception as error:
                raise ConfigError(f"logger: {type(tracker).__name__} cannot start: {_describe(error)}") from error

    def write(self, row: Mapping[str, float | None]) -> None:
        """Send a row to the tracker."""
        if self._tracker is None:
            return
        try:
            self._tracker.write({name: value for name, value in row.items() if value is not None})
        except Exception as error:
            self._warn("failed and receives no more rows; training continues, and metrics.csv has every row", error)
            self._close(error)

    def _close(self, error: BaseException | None) -> None:
        if self._tracker is None:
            return
        try:
            self._tracker.close(error)
        except Exception as failure:
            self._warn("could not be closed; metrics.csv has every row", failure)
        self._tracker = None

    def _warn(self, problem: str, error: Exception) -> None:
        log.warning("logger: %s %s: %s", type(self._tracker).__name__, problem, _describe(error), exc_info=error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(error)


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
