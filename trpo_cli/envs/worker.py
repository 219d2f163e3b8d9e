"""The code of a worker process, which runs one environment or a few of them, one after the other.

A worker answers one request at a time over its pipe; observations go through shared memory. It ends when the pipe is
closed. It leads a process group, so that processes of its environments are killed together with it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from trpo_cli.envs.failure import Failure, as_failure
from trpo_cli.envs.global_generators import WorkerGenerators
from trpo_cli.envs.in_turn import InTurn
from trpo_cli.errors import UserError
from trpo_cli.run.signals import SIGNALS
from trpo_cli.seeding import seed_globals

Array = NDArray[Any]
GRACE = 2.0  # seconds to close the environments once the parent is gone
CLOSED = "closed"
"""The last answer of a worker, unless closing its environment failed."""


def work(
    rows: range, seed: int, alone: bool, make: bytes, pipe: Connection, memory: Any, shape: Any, kind: Any
) -> None:
    """Run a worker for the environments `rows`, whose observations are those rows of the shared `memory`.

    `make` is pickled, since reading it imports the environment's module, which may use generators. `seed` is for the
    global generators, which belong to an environment that is `alone` in a process.
    """
    for number in SIGNALS:  # sent to every process of a run; the parent handles them
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    os.setpgid(0, 0)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    threadpool_limits(1)
    with contextlib.suppress(EOFError, ConnectionError):  # the parent has closed the pipe
        try:
            seed_globals(seed, "making an environment")
            envs = pickle.loads(make)()
            envs.shared = WorkerGenerators(seed) if alone else None
            worker = _Worker(envs, shared_array(memory, shape, kind)[rows.start : rows.stop])
        except Exception as error:
            pipe.send(_portable_error(rows.start, error))
            return
        try:
            pipe.send(None)
            while not worker.closed:
                pipe.send(_answer(rows.start, worker, *pipe.recv()))
        finally:
            if not worker.closed:
                with contextlib.suppress(Exception):  # nobody is left to report it to
                    worker.close()


def shared_array(memory: Any, shape: Any, kind: Any) -> Array:
    """An array of the given shape in memory that processes share."""
    return np.frombuffer(memory, dtype=kind, count=int(np.prod(shape))).reshape(shape)


class _Worker:
    """The methods that answer requests, by name. Rows are counted from the first environment of this worker."""

    def __init__(self, envs: InTurn, observations: Array) -> None:
        self._envs, self._observations, self.closed = envs, observations, False

    def reset(self, seed: list[int | None] | None, options: dict[str, Any]) -> None:
        if self._envs.shared is not None and seed is not None and seed[0] is not None:
            self._envs.shared.reseed(seed[0])
        self._observations[:] = self._envs.reset(seed=seed, options=options)[0]

    def step(self, actions: Any) -> tuple[Array, Array, Array, Array | None]:
        observation, reward, terminated, truncated, _ = self._envs.step(actions)
        self._observations[:] = observation
        return reward, terminated, truncated, self._envs.lost

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        self._envs.load_state_dict(state)
        self._show()

    def restore(self, rows: Array, snapshots: Sequence[Any]) -> None:
        self._envs.restore(rows, snapshots)
        self._show()

    def close(self) -> str:
        self.closed = True
        self._envs.close()
        return CLOSED

    def __getattr__(self, request: str) -> Any:
        return getattr(self._envs, request)

    def _show(self) -> None:
        self._observations[:] = self._envs.observations()


def _die_with_parent() -> None:
    """Kill the process group when the parent ends, since a hanging step would never notice the closed pipe."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        time.sleep(GRACE)
        os.killpg(0, signal.SIGKILL)


def _answer(index: int, worker: _Worker, request: str, arguments: tuple[Any, ...]) -> Any:
    try:
        return getattr(worker, request)(*arguments)
    except Exception as error:
        return _portable_error(index, error)


def _portable_error(index: int, error: Exception) -> Exception:
    """An error of a class that the parent can unpickle, with its traceback as a note for the log."""
    portable = error if isinstance(error, Failure | UserError) else as_failure(index, error)
    portable.add_note(traceback.format_exc())
    return portable
