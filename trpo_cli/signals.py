"""SIGINT and SIGTERM end a run after the current iteration; a second one ends it at once."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, Self

EXIT_OFFSET = 128  # a shell reports a process ended by signal n as 128 + n


class StopRequest:
    """Within its context, the first signal only sets `status`; the loop looks at it when it can stop safely."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.status: int | None = None  # the exit status that was asked for
        self._previous: dict[signal.Signals, Any] = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.status is not None:
            raise SystemExit(EXIT_OFFSET + number)
        self.status = EXIT_OFFSET + number

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._receive) for number in self.SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
