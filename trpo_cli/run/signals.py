"""SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 stop a run after the current iteration; a second one stops it at once.

Context managers define the effect of a signal. The innermost decides, and passes a signal that it only recorded to
those around it. Python delivers signals to its main thread, so a context in any other thread has no effect.
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

EXIT_OFFSET = 128  # shells report a process ended by signal n as 128 + n
MOMENT = 0.05  # seconds, longer than a finaliser takes
ECHO = 1.0  # seconds in which repeated signals count as one: a terminal or `timeout` signals every process
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Stopped(SystemExit):
    """The run was stopped by a signal, which determines its exit status."""

    def __init__(self, by: signal.Signals) -> None:
        super().__init__(by)  # the arguments that pickle passes to the constructor
        self.by, self.code = by, EXIT_OFFSET + by


def do_nothing(by: signal.Signals) -> None:
    """The default for `before`."""


class Interruptible:
    """Within this context, a signal calls `before` and raises `Stopped`, wherever the program is."""

    def __init__(self, before: Callable[[signal.Signals], None] = do_nothing) -> None:
        self.signal: signal.Signals | None = None
        self._before = before
        self._since = 0.0
        self._is_lost = False  # whether a finaliser has swallowed the exception
        self._outer: Interruptible | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def check(self) -> None:
        """Raise `Stopped` if a signal has arrived that was only recorded, or whose exception was lost."""
        if self.signal is not None:
            raise Stopped(self.signal)

    def receive(self, by: signal.Signals) -> None:
        """Handle a signal that has just arrived."""
        if self.signal is None:
            self.signal, self._since = by, time.monotonic()
            self._first(by)
        elif self._is_lost or time.monotonic() - self._since > ECHO:
            self._is_lost = False
            raise Stopped(by)

    def _first(self, by: signal.Signals) -> None:
        self._before(by)
        raise Stopped(by)

    def _rescue(self, lost: sys.UnraisableHookArgs) -> None:
        """Repeat a signal that arrived in a finaliser, from which no exception can escape."""
        if not isinstance(lost.exc_value, Stopped):
            self._hook(lost)
        elif _contexts[-1:] == [self]:
            self._is_lost = True
            threading.Timer(MOMENT, os.kill, (os.getpid(), lost.exc_value.by)).start()

    def _adopt(self, other: Interruptible) -> None:
        if self.signal is None:
            self.signal, self._since = other.signal, other._since

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._outer = _contexts[-1] if _contexts else None
        _contexts.append(self)
        self._hook, sys.unraisablehook = sys.unraisablehook, self._rescue
        self._previous = {number: signal.signal(number, _handle) for number in SIGNALS if not _is_ignored(number)}
        if self._outer is not None:
            self._adopt(self._outer)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self not in _contexts:
            return
        sys.unraisablehook = self._hook
        for number, handler in self._previous.items() if self._outer is None else ():
            signal.signal(number, handler)
        del _contexts[_contexts.index(self) :]
        if self._outer is not None:
            self._outer._adopt(self)


class StopRequest(Interruptible):
    """Record the first signal in `signal`, which the training loop checks when it can stop; a second one raises."""

    def _first(self, by: signal.Signals) -> None:
        _write_line(f"{by.name}: stopping after this iteration; send it again to stop at once")


class Heedless(Interruptible):
    """Signals are only recorded: another process decides what follows from them."""

    def receive(self, by: signal.Signals) -> None:
        """Record the first signal."""
        self.signal = self.signal or by


class ExitAtOnce(Interruptible):
    """A signal prints a line and ends the process at once, since an exception might get lost during imports."""

    status: int | None = None  # of a finished command, which a late signal does not change

    def receive(self, by: signal.Signals) -> None:
        """End the process."""
        if self.status is None:
            self.status = EXIT_OFFSET + by
            with contextlib.suppress(Exception):
                self._before(by)
            _write_line(f"stopped by {by.name}")
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # the signal may have interrupted a write
                stream.flush()
        os._exit(self.status)


def ignore_signals() -> None:
    """Ignore signals from now on; otherwise one could kill the interpreter after it restores the default handlers."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


_contexts: list[Interruptible] = []  # innermost last


def _handle(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGHUP:
        _redirect_lost_streams()
    if _contexts:
        _contexts[-1].receive(signal.Signals(number))


def _is_ignored(number: signal.Signals) -> bool:
    """Whether the signal must stay ignored: under nohup, a run outlives its terminal."""
    return number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN


@contextlib.contextmanager
def block_signals(signals: Sequence[signal.Signals]) -> Iterator[None]:
    """Processes started within this context do not receive these signals until they unblock them.

    Another thread receives them meanwhile, so that the program as a whole misses none.
    """
    ended = threading.Event()
    threading.Thread(target=ended.wait, daemon=True).start()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # starting the tracker unblocks some
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        ended.set()


def _write_line(text: str) -> None:
    """Write a line to standard error, bypassing the stream, which may be in use."""
    with contextlib.suppress(OSError):  # nobody reads it any more
        os.write(2, f"{text}\n".encode())


def _redirect_lost_streams() -> None:
    """Discard the output if the terminal is gone, since every write to it would raise an error."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (1, 2):
        try:
            os.write(number, b"")
        except OSError:
            os.dup2(nowhere, number)
    os.close(nowhere)
