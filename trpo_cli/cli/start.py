"""Where the commands begin: before much is imported, so that a signal finds them ready at any instant."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def train() -> None:
    """The command `trpo-train`."""
    _run("train", "trpo-train")


def evaluate() -> None:
    """The command `trpo-eval`."""
    _run("evaluate", "trpo-eval")


def report() -> None:
    """The command `trpo-report`."""
    _run("report", "trpo-report")


def _run(module: str, name: str) -> None:
    """Run the `main` of a module, as the command of that name.

    A signal that comes when it is done ends the process with the status it has then.
    """
    signal.signal(signal.SIGINT, _leave)
    import atexit
    import importlib

    from trpo_cli.run.signals import AtOnce, ignore

    guard = AtOnce().__enter__()
    atexit.register(ignore)  # what is registered first is called last
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
    """End the process as `AtOnce` does, which takes a while to import."""
    os.write(2, b"stopped by SIGINT\n")
    os._exit(128 + number)


def _open_streams() -> None:
    """Standard streams that the shell has closed lead nowhere: a file opened next would be taken for one of them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest number, which is this
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  until the process ends
