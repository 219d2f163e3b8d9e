"""Where the rows of metrics go beside the run directory: `logger=wandb`, or a tracker of your own."""

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
    """A place that rows are sent to. Its settings are the keyword arguments of its constructor."""

    @abstractmethod
    def begin(self, config: dict[str, Any], directory: Path, env_steps: int) -> None:
        """Get ready for a run with this configuration in this directory, before any environment step.

        A run that goes on does so after `env_steps`; later rows may have been sent before, and come again as they were.
        Whatever is raised here ends the run before it begins.
        """

    @abstractmethod
    def write(self, row: dict[str, float]) -> None:
        """Take one row: `env_steps` and the other columns of `metrics.csv` that have a value."""

    @abstractmethod
    def close(self, error: BaseException | None) -> None:
        """Let go: the run came to its end, or was ended by this error or signal, or `write` raised this error.

        It is called once if `begin` returned. What a `write` that raised had begun may be half done.
        """


class Tracking:
    """A tracker at work. One that fails is told of and left behind: training goes on, its rows are in `metrics.csv`."""

    def __init__(self, tracker: Tracker | None, config: Mapping[str, Any], directory: Path, env_steps: int) -> None:
        """Raises `ConfigError` if it cannot begin."""
        self._tracker = tracker
        if tracker is not None:
            try:
                tracker.begin(copy.deepcopy(dict(config)), directory, env_steps)
            except UserError:
                raise
            except Exception as error:
                raise ConfigError(f"logger: {type(tracker).__name__} cannot begin: {_said(error)}") from error

    def write(self, row: Mapping[str, float | None]) -> None:
        """Send a row."""
        if self._tracker is None:
            return
        try:
            self._tracker.write({name: value for name, value in row.items() if value is not None})
        except Exception as error:
            self._tell("failed and gets no more rows, training goes on; every row is in metrics.csv", error)
            self._close(error)

    def _close(self, error: BaseException | None) -> None:
        if self._tracker is None:
            return
        try:
            self._tracker.close(error)
        except Exception as failure:
            self._tell("could not be closed; every row is in metrics.csv", failure)
        self._tracker = None

    def _tell(self, what: str, error: Exception) -> None:
        log.warning("logger: %s %s: %s", type(self._tracker).__name__, what, _said(error), exc_info=error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(error)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
