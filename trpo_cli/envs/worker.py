"""The code of a worker process, which runs one environment.

A worker answers one request at a time over its pipe; observations go through shared memory. It ends when the pipe is
closed. It leads a process group, so that processes of its environment are killed together with it.
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

import gymnasium
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from trpo_cli.envs.failure import Failure, as_failure
from trpo_cli.envs.global_generators import WorkerGenerators
from trpo_cli.envs.infos import Numbers
from trpo_cli.envs.slot import Slot
from trpo_cli.envs.watched import Watched
from trpo_cli.errors import UserError
from trpo_cli.run.signals import SIGNALS
from trpo_cli.seeding import seed_globals

Env = gymnasium.Env[Any, Any]
Array = NDArray[Any]
GRACE = 2.0  # seconds to close the environment once the parent is gone
CLOSED = "closed"
"""The last answer of a worker, unless closing its environment failed."""


def work(index: int, seed: int, make: bytes, pipe: Connection, memory: Any, shape: tuple[int, ...], kind: Any) -> None:
    """Run a worker. `make` is pickled, since reading it imports the environment's module, which may use generators."""
    for number in SIGNALS:  # sent to every process of a run; the parent handles them
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    os.setpgid(0, 0)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    threadpool_limits(1)
    with contextlib.suppress(EOFError, ConnectionError):  # the parent has closed the pipe
        try:
            seed_globals(seed, "making an environment")
            env = pickle.loads(make)()
            worker = _Worker(index, env, shared_array(memory, shape, kind), WorkerGenerators(seed))
        except Exception as error:
            pipe.send(_portable_error(index, error))
            return
        try:
            pipe.send(None)
            while not worker.closed:
                pipe.send(_answer(index, worker, *pipe.recv()))
        finally:
            if not worker.closed:
                with contextlib.suppress(Exception):  # nobody is left to report it to
                    worker.close()


def shared_array(memory: Any, shape: Any, kind: Any) -> Array:
    """An array of the given shape in memory that processes share."""
    return np.frombuffer(memory, dtype=kind, count=int(np.prod(shape))).reshape(shape)


class _Worker:
    """The methods that answer requests, by name."""

    def __init__(self, index: int, env: Env, observations: Array, shared: WorkerGenerators) -> None:
        self._watched = Watched(env, index)
        self._slot, self._observation = Slot(self._watched, shared=shared), observations[index : index + 1]
        self._shared, self.closed = shared, False

    def reset(self, seed: int | None, options: dict[str, Any] | None) -> None:
        if seed is not None:
            self._shared.reseed(seed)
        observation, _ = self._slot.env.reset(seed=seed, options=options)
        self._slot.ended = False
        self._show(observation)

    def step(self, action: Any) -> tuple[float, bool, bool]:
        observation, reward, terminated, truncated, _ = self._slot.env.step(action)
        self._slot.ended = terminated or truncated
        self._show(observation)
        return float(reward), terminated, truncated

    def read_numbers(self, names: Sequence[str]) -> Numbers:
        return self._watched.read_numbers(names)

    def obstacle(self) -> str | None:
        return self._slot.file_obstacle()

    def save(self) -> dict[str, Any]:
        return self._slot.save()

    def load(self, state: dict[str, Any]) -> None:
        self._slot.load(state)
        self._show(self._slot.observation)

    def close(self) -> str:
        self.closed = True
        self._slot.env.close()
        return CLOSED

    def _show(self, observation: Any) -> None:
        self._slot.observation = observation
        self._observation[0] = observation


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
