"""A helper process, in which a critic is fitted while the policy is updated here.

Two threads would contend for the interpreter between their many short steps. The helper works on a copy of the critic:
it is given the state before a fit, and returns the one after it, which is bit for bit that of a fit in this process.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pickle
import queue
import subprocess
import sys
import threading
import time
import weakref
from abc import abstractmethod
from collections.abc import Callable, Sequence
from multiprocessing import connection
from typing import IO, Any, ClassVar

import torch
from torch import Tensor, nn

from trpo_cli.data import Observations
from trpo_cli.threads import limit_threads

log = logging.getLogger("trpo_cli")
WORTH_A_PROCESS = 0.01  # seconds a fit
PATIENCE, LONGER = 60.0, 100  # the helper hangs after so many seconds, and so many times those of a fit here
_waiting = threading.RLock()


class FittedByHelper(nn.Module):
    """A module that may be fitted in a helper process, if a fit takes long enough to pay for one."""

    settings: ClassVar[Sequence[str]]  # of a fit: attributes, which schedules may move

    def __init__(self) -> None:
        super().__init__()
        self.may_use_helper = False
        self._helper: Helper | None = None
        self._job: tuple[Any, ...] = ()  # that the helper is doing
        self._seconds = 0.0  # of the last fit in this process

    @abstractmethod
    def fit_here(self, observations: Sequence[Observations], return_: Tensor) -> None:
        """Fit it in this process."""

    def fit(self, observations: Sequence[Observations], return_: Tensor) -> None:
        self.finish_fit()
        if self._helper is None and self.may_use_helper and return_.is_cpu and self._seconds > WORTH_A_PROCESS:
            self._helper = Helper(self)
        if self._helper is not None and self._helper.is_lost:
            self._go_on_alone()
        elif self._helper is not None and self._helper.is_ready:
            self._job = (self.state_dict(), self._read_settings(), observations, return_)
            self._helper.begin(*self._job)
            return
        start = time.perf_counter()
        self.fit_here(observations, return_)
        self._seconds = time.perf_counter() - start

    def fit_from(
        self, state: dict[str, Any], settings: dict[str, Any], observations: Sequence[Observations], return_: Tensor
    ) -> dict[str, Any]:
        """Fit it from this state, and return the state after it."""
        self.load_state_dict(state)
        vars(self).update(settings)
        self.fit_here(observations, return_)
        return self.state_dict()

    def finish_fit(self) -> None:
        """Wait for the fit that the helper does."""
        with _waiting:  # threads that share shards all wait
            if not self._job:
                return
            job, self._job = self._job, ()
            try:
                patience = PATIENCE + LONGER * self._seconds
                self.load_state_dict(self._helper.finish(patience))  # type: ignore[union-attr]  # it began the job
            except EOFError:
                self._go_on_alone()
                settings = self._read_settings()
                self.fit_from(*job)
                vars(self).update(settings)

    def _go_on_alone(self) -> None:
        log.warning("the helper process that fitted the critic has ended or hangs; training goes on without it")
        self.close()
        self._helper, self.may_use_helper = None, False

    def _read_settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.settings}

    def state_dict(self, *arguments: Any, **keywords: Any) -> dict[str, Any]:  # type: ignore[override]
        """As of any module, after the fit that is under way."""
        self.finish_fit()
        return super().state_dict(*arguments, **keywords)

    def close(self) -> None:
        """End the helper."""
        if self._helper is not None:
            self._helper.close()

    def __getstate__(self) -> dict[str, Any]:
        """Without the helper, which is sent a copy."""
        self.finish_fit()
        return {**vars(self), "_helper": None, "_job": (), "may_use_helper": False}


class Helper:
    """The process, which begins when this is made and ends with it."""

    def __init__(self, module: nn.Module) -> None:
        """It works on a copy of the module as it is configured."""
        # Whatever libraries print, even on import, goes to standard error.
        kept = "import os; answers = os.dup(1); os.dup2(2, 1)"
        command = [sys.executable, "-c", f"{kept}; from {__name__} import serve; serve(answers)"]
        # A session of its own, since a signal that the terminal sends is for the program that trains.
        self._process: subprocess.Popen[bytes] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self._sent: IO[bytes] = self._process.stdin  # type: ignore[assignment]  # both are pipes
        self._received: IO[bytes] = self._process.stdout  # type: ignore[assignment]
        self._is_ready = False
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()  # None if it has ended
        self._close = weakref.finalize(self, _end, self._process)
        # It reads this only when it has imported what it needs.
        _in_background(_write, self._sent, pickle.dumps(sys.path) + pickle.dumps(module))

    @property
    def is_lost(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    @property
    def is_ready(self) -> bool:
        """Whether it has begun, and can take a job once it has none."""
        if not self._is_ready and connection.wait([self._received.fileno()], 0):
            with contextlib.suppress(EOFError):  # it is lost
                _receive(self._received)
                self._is_ready = True
        return self._is_ready

    def begin(self, *job: Any) -> None:
        """Have it call `fit_from(*job)` of the module, which returns the result."""
        _in_background(_ask, self._sent, _pickled(job), self._received, self._answers)

    def finish(self, seconds: float) -> Any:
        """Wait for the result. Raises `EOFError` if it has ended, or does not answer for so long."""
        with contextlib.suppress(queue.Empty):
            if (answer := self._answers.get(timeout=seconds)) is not None:
                return answer
        raise EOFError

    def close(self) -> None:
        """End the process."""
        self._close()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def serve(answers: int) -> None:
    """The helper: serve until the pipe is closed. `answers` is the file descriptor for results."""
    received, sent = sys.stdin.buffer, os.fdopen(answers, "wb")
    with contextlib.suppress(EOFError, BrokenPipeError):
        sys.path[:] = _receive(received)
        limit_threads()
        module = pickle.load(received)
        _write(sent, _pickled(None))
        while True:
            _write(sent, _pickled(module.fit_from(*_receive(received))))


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Tensor):  # torch's own way takes far longer
            return torch.from_numpy, (value.detach().numpy(),)
        return NotImplemented


def _pickled(value: Any) -> memoryview:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=5).dump(value)
    return buffer.getbuffer()


def _in_background(function: Callable[..., None], *arguments: Any) -> None:
    """Call the function in a thread: the helper may read only later, or never."""
    threading.Thread(target=function, args=arguments, daemon=True).start()


def _write(stream: IO[bytes], data: bytes | memoryview) -> None:
    with contextlib.suppress(BrokenPipeError):  # whoever waits for the answer will notice
        stream.write(data)
        stream.flush()


def _ask(sent: IO[bytes], job: memoryview, received: IO[bytes], answers: queue.SimpleQueue[Any]) -> None:
    """Send a job, and wait for all of the answer, however long."""
    _write(sent, job)
    try:
        answers.put(_receive(received))
    except (EOFError, OSError, ValueError, pickle.UnpicklingError):  # ended, perhaps by this process
        answers.put(None)


def _receive(stream: IO[bytes]) -> Any:
    return pickle.load(stream)
