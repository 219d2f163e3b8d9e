"""SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 end a run after the current iteration; a second one ends it at once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

EXIT_OFFSET = 128  # a shell reports a process ended by signal n as 128 + n
ECHO = 1.0  # seconds in which another signal is the same one: a terminal or `timeout` sends it to everybody at once


class Stopped(SystemExit):
    """The run was stopped by a signal, and ends with the status of that."""

    def __init__(self, by: signal.Signals) -> None:
        super().__init__(by)  # what it is made of again in another process
        self.by, self.code = by, EXIT_OFFSET + by


class Interruptible:
    """Within its context, a signal raises `Stopped`, wherever the program is, after `before` was called."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.signal: signal.Signals | None = None
        self._before = before
        self._since = 0.0
        self._previous: dict[signal.Signals, Any] = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self._since = signal.Signals(number), time.monotonic()
            self._first(self.signal)
        elif time.monotonic() - self._since > ECHO:
            raise Stopped(signal.Signals(number))

    def _first(self, by: signal.Signals) -> None:
        self._before()
        raise Stopped(by)

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._receive) for number in self.SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


class StopRequest(Interruptible):
    """The first signal is only noted in `signal`; the loop looks at it when it can stop safely. A second one raises."""

    def _first(self, by: signal.Signals) -> None:
        os.write(2, f"{by.name}: stopping after this iteration; once more stops at once\n".encode())
