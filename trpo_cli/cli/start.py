"""The entry points of the commands, which handle signals before any slow import."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def train() -> None:
    """Run the command `trpo-train`."""
    _run("train", "trpo-train")


def evaluate() -> None:
    """Run the command `trpo-eval`."""
    _run("evaluate", "trpo-eval")


def export() -> None:
    """Run the command `trpo-export`."""
    _run("export", "trpo-export")


def report() -> None:
    """Run the command `trpo-report`."""
    _run("report", "trpo-report")


def _run(module: str, name: str) -> None:
    """Run `main` of a module as the command `name`.

    A signal that arrives after it has returned does not change the exit status.
    """
    signal.signal(signal.SIGINT, _leave)
    import atexit
    import importlib

    from trpo_cli.run.signals import ExitAtOnce, ignore_signals

    guard = ExitAtOnce().__enter__()
    atexit.register(ignore_signals)  # registered first, so called last
    _open_streams()
    if os.path.basename(sys.argv[0]) != name:  # python -m
        sys.argv[0] = name
    try:
        importlib.import_module(f"trpo_cli.{module}").main()
    except SystemExit as end:
        guard.status = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    guard.status = 0


def _leave(number: int, frame: FrameType | None) -> None:
    """End the process like `ExitAtOnce`, which has not been imported yet."""
    os.write(2, b"stopped by SIGINT\n")
    os._exit(128 + number)


def _open_streams() -> None:
    """Open closed standard streams on /dev/null; otherwise the next file to be opened would take their number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, which is `number`
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  open until the process ends
