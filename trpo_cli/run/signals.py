"""SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 end a run after the current iteration; a second one ends it at once.

Contexts say what a signal does within them; the innermost decides, and what it only noted, those around it know too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from types import FrameType, TracebackType
from typing import Any, Self

EXIT_OFFSET = 128  # a shell reports a process ended by signal n as 128 + n
MOMENT = 0.05  # seconds: more than a finaliser takes
ECHO = 1.0  # seconds in which another signal is the same one: a terminal or `timeout` sends it to everybody at once
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Stopped(SystemExit):
    """The run was stopped by a signal, and ends with the status of that."""

    def __init__(self, by: signal.Signals) -> None:
        super().__init__(by)  # pickle calls the constructor with these
        self.by, self.code = by, EXIT_OFFSET + by


def nothing(by: signal.Signals) -> None:
    """Do nothing before a signal takes effect."""


class Interruptible:
    """Within its context, a signal raises `Stopped`, wherever the program is, after `before` was called."""

    def __init__(self, before: Callable[[signal.Signals], None] = nothing) -> None:
        self.signal: signal.Signals | None = None
        self._before = before
        self._since = 0.0
        self._astray = False  # whether the exception was lost in a finaliser
        self._outer: Interruptible | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def check(self) -> None:
        """Raise `Stopped` if a signal has come: it may only have been noted, or its exception may have been lost."""
        if self.signal is not None:
            raise Stopped(self.signal)

    def receive(self, by: signal.Signals) -> None:
        """Take a signal that came now."""
        if self.signal is None:
            self.signal, self._since = by, time.monotonic()
            self._first(by)
        elif self._astray or time.monotonic() - self._since > ECHO:
            self._astray = False
            raise Stopped(by)

    def _first(self, by: signal.Signals) -> None:
        self._before(by)
        raise Stopped(by)

    def _rescue(self, lost: sys.UnraisableHookArgs) -> None:
        """Have a signal that came in a finaliser, out of which nothing can be raised, come again when that is over."""
        if not isinstance(lost.exc_value, Stopped):
            self._hook(lost)
        elif _contexts[-1:] == [self]:
            self._astray = True
            threading.Timer(MOMENT, os.kill, (os.getpid(), lost.exc_value.by)).start()

    def _learn(self, other: Interruptible) -> None:
        if self.signal is None:
            self.signal, self._since = other.signal, other._since

    def __enter__(self) -> Self:
        self._outer = _contexts[-1] if _contexts else None
        _contexts.append(self)
        self._hook, sys.unraisablehook = sys.unraisablehook, self._rescue
        self._previous = {number: signal.signal(number, _hear) for number in SIGNALS if not _is_ignored(number)}
        if self._outer is not None:
            self._learn(self._outer)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.unraisablehook = self._hook
        for number, handler in self._previous.items() if self._outer is None else ():
            signal.signal(number, handler)
        del _contexts[_contexts.index(self) :]
        if self._outer is not None:
            self._outer._learn(self)


class StopRequest(Interruptible):
    """The first signal is only noted in `signal`; the loop looks at it when it can stop safely. A second one raises."""

    def _first(self, by: signal.Signals) -> None:
        _say(f"{by.name}: stopping after this iteration; once more stops at once")


class AtOnce(Interruptible):
    """A signal ends the process there and then, with a line: an exception would get lost in what is being imported."""

    status: int | None = None  # of a command that is done: the signal comes too late to change it

    def receive(self, by: signal.Signals) -> None:
        """End the process."""
        if self.status is None:
            self.status = EXIT_OFFSET + by
            with contextlib.suppress(Exception):
                self._before(by)
            _say(f"stopped by {by.name}")
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # it may be writing now
                stream.flush()
        os._exit(self.status)


def ignore() -> None:
    """Ignore signals from now on: at exit the interpreter restores the default handlers, and a late one kills it."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


_contexts: list[Interruptible] = []  # the innermost comes last


def _hear(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGHUP:
        _forget_terminal()
    if _contexts:
        _contexts[-1].receive(signal.Signals(number))


def _is_ignored(number: signal.Signals) -> bool:
    """Whether it is to stay ignored: under nohup a run outlives its terminal."""
    return number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN


@contextlib.contextmanager
def unheard(signals: Sequence[signal.Signals]) -> Iterator[None]:
    """Processes that are started within it do not receive these signals until they unblock them.

    Another thread hears what this one does not, so that the program as a whole misses nothing.
    """
    ended = threading.Event()
    threading.Thread(target=ended.wait, daemon=True).start()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # the start of the tracker unblocks some
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        ended.set()


def _say(text: str) -> None:
    """Put a line on standard error, past the stream, which may be in use."""
    with contextlib.suppress(OSError):  # nobody listens any more
        os.write(2, f"{text}\n".encode())


def _forget_terminal() -> None:
    """Where the terminal is gone, every write to it would be an error: let what is said go nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (1, 2):
        try:
            os.write(number, b"")
        except OSError:
            os.dup2(nowhere, number)
    os.close(nowhere)
