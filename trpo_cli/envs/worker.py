"""The life of a worker process with one environment.

It answers one request at a time over its pipe; observations go through shared memory. A closed pipe ends it. It leads a
process group, for its environment may have processes of its own, which are to end with it when it ends by force.
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
from multiprocessing.connection import Connection
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from trpo_cli.envs.failure import Failure, raised
from trpo_cli.envs.global_generators import Globals
from trpo_cli.envs.slots import Place
from trpo_cli.envs.watched import Watched
from trpo_cli.errors import UserError
from trpo_cli.run.signals import SIGNALS
from trpo_cli.seeding import seed_globals

Env = gymnasium.Env[Any, Any]
Array = NDArray[Any]
GRACE = 2.0  # seconds to close the environment when nobody waits for it
CLOSED = "closed"
"""The last answer of a worker, unless its environment said something to it."""


def work(index: int, seed: int, make: bytes, pipe: Connection, memory: Any, shape: tuple[int, ...], kind: Any) -> None:
    """A worker's life. `make` is pickled: to read it imports the environment's module, which may draw numbers."""
    for number in SIGNALS:  # terminals and schedulers send them to every process of a run; the first one saves
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    os.setpgid(0, 0)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    threadpool_limits(1)
    with contextlib.suppress(EOFError, ConnectionError):  # the parent needs it no more
        try:
            seed_globals(seed, "making an environment")
            env = pickle.loads(make)()
            worker = _Worker(index, env, table(memory, shape, kind), Globals(seed))
        except Exception as error:
            pipe.send(_told(index, error))
            return
        try:
            pipe.send(None)
            while not worker.closed:
                pipe.send(_answer(index, worker, *pipe.recv()))
        finally:
            if not worker.closed:
                with contextlib.suppress(Exception):  # nobody is left to hear of it
                    worker.close()


def table(memory: Any, shape: Any, kind: Any) -> Array:
    """The array of that shape in memory that the processes share."""
    return np.frombuffer(memory, dtype=kind, count=int(np.prod(shape))).reshape(shape)


class _Worker:
    """What is done for each request, by its name."""

    def __init__(self, index: int, env: Env, observations: Array, shared: Globals) -> None:
        self._place, self._shown = Place(Watched(env, index), shared=shared), observations[index : index + 1]
        self._shared, self.closed = shared, False

    def reset(self, seed: int | None, options: dict[str, Any] | None) -> None:
        if seed is not None:
            self._shared.start_anew(seed)
        observation, _ = self._place.env.reset(seed=seed, options=options)
        self._place.ended = False
        self._show(observation)

    def step(self, action: Any) -> tuple[float, bool, bool]:
        observation, reward, terminated, truncated, _ = self._place.env.step(action)
        self._place.ended = terminated or truncated
        self._show(observation)
        return float(reward), terminated, truncated

    def obstacle(self) -> str | None:
        return self._place.obstacle()

    def save(self) -> dict[str, Any]:
        return self._place.save()

    def load(self, state: dict[str, Any]) -> None:
        self._place.load(state)
        self._show(self._place.observation)

    def close(self) -> str:
        self.closed = True
        self._place.env.close()
        return CLOSED

    def _show(self, observation: Any) -> None:
        self._place.observation = observation
        self._shown[0] = observation


def _die_with_parent() -> None:
    """A step may never come to its end, and see that the pipe is closed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        time.sleep(GRACE)
        os.killpg(0, signal.SIGKILL)


def _answer(index: int, worker: _Worker, request: str, arguments: tuple[Any, ...]) -> Any:
    try:
        return getattr(worker, request)(*arguments)
    except Exception as error:
        return _told(index, error)


def _told(index: int, error: Exception) -> Exception:
    """An error of a class that the parent knows, with where it came from, for the log."""
    told = error if isinstance(error, Failure | UserError) else raised(index, error)
    told.add_note(traceback.format_exc())
    return told
