"""Closing environments, even those whose `close` fails or hangs."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from trpo_cli.envs.failure import NOT_ITS_OWN, Failure, worded

log = logging.getLogger("trpo_cli")
PATIENCE = 15.0  # seconds: more than worker processes get, which are killed then
AGAIN = 1.0  # seconds, for the next that hangs


class Overdue(BaseException):
    """A `close` that would not end. No `Exception`, which an environment may well catch to try once more."""


def let_go(close: Callable[[], object], name: str, told: set[str]) -> None:
    """Call `close`, of environments called `name`. What goes wrong in it ends nothing, and is logged unless it is in
    `told` already. One that hangs is interrupted after a while."""
    try:
        with _interrupted():
            close()
    except NOT_ITS_OWN:
        raise
    except BaseException as error:
        failure = error if isinstance(error, Failure) else Failure(" raised in its close", f": {worded(error)}")
        complaint = f"{name}{failure.what}{failure.more}"
        if complaint not in told:
            told.add(complaint)
            log.warning("%s; it is let go of all the same", complaint)


@contextlib.contextmanager
def _interrupted() -> Iterator[None]:
    """Raise `Overdue` wherever the program is, once its patience is over. Only the main thread can be interrupted."""

    def interrupt(*_: Any) -> None:
        raise Overdue(f"no end within {PATIENCE:g} s")

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
    finally:  # an alarm may have come in that very moment
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *timer)
