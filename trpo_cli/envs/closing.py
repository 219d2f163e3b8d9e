"""Closes environments, even if their `close` fails or hangs."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from trpo_cli.envs.failure import INTERRUPTS, Failure, describe_error

log = logging.getLogger("trpo_cli")
PATIENCE = 15.0  # seconds, more than worker processes get before they are killed
AGAIN = 1.0  # seconds until the next interruption, if it still hangs


class CloseTimeout(BaseException):
    """A `close` did not return in time. Not an `Exception`, which the environment might catch."""


def close_safely(close: Callable[[], object], name: str, logged: set[str]) -> None:
    """Call `close` of the environments called `name`, and interrupt it after `PATIENCE` seconds.

    Errors are not raised but logged, unless they are already in `logged`.
    """
    try:
        with _time_limit():
            close()
    except INTERRUPTS:
        raise
    except BaseException as error:
        failure = error if isinstance(error, Failure) else Failure(" raised in its close", f": {describe_error(error)}")
        complaint = f"{name}{failure.summary}{failure.details}"
        if complaint not in logged:
            logged.add(complaint)
            log.warning("%s; it is given up", complaint)


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    """Raise `CloseTimeout` after `PATIENCE` seconds, wherever the main thread is; other threads have no limit."""

    def interrupt(*_: Any) -> None:
        raise CloseTimeout(f"it did not return within {PATIENCE:g} s")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGALRM, interrupt)
    timer = signal.setitimer(signal.ITIMER_REAL, PATIENCE, AGAIN)
    try:
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:  # the alarm may have gone off just now
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *timer)
