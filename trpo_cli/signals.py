"""SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 end a run after the current iteration; a second one ends it at once."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any, Self

EXIT_OFFSET = 128  # a shell reports a process ended by signal n as 128 + n


class Stopped(SystemExit):
    """The run was stopped by a signal, and ends with the status of that."""

    def __init__(self, by: signal.Signals) -> None:
        super().__init__(EXIT_OFFSET + by)
        self.by = by


class Interruptible:
    """Within its context, a signal raises `Stopped`, wherever the program is."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

    def __init__(self) -> None:
        self._previous: dict[signal.Signals, Any] = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        raise Stopped(signal.Signals(number))

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

    def __init__(self) -> None:
        super().__init__()
        self.signal: signal.Signals | None = None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            super()._receive(number, frame)
        self.signal = signal.Signals(number)
        os.write(2, f"{self.signal.name}: stopping after this iteration; once more stops at once\n".encode())
