"""Environments in worker processes, one each: faults named, none waited for without end, none left behind.

The parent's side; `worker.py` is the child's.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import pickle
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import forkserver, util
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import CloudpickleWrapper, batch_space, iterate
from numpy.typing import NDArray

from trpo_cli.envs.failure import Failure
from trpo_cli.envs.worker import CLOSED, GRACE, table, work
from trpo_cli.errors import ConfigError
from trpo_cli.run.signals import SIGNALS, unheard

Env = gymnasium.Env[Any, Any]
Array = NDArray[Any]
Spaces = tuple[gymnasium.Space[Any], gymnasium.Space[Any]]  # of observations and actions
LONGEST_FOLDER = 72  # bytes: a socket's path has 103 on some systems, 31 of which are its name and its folder's
SHORT_FOLDER = "/tmp"
START = 300.0  # seconds to make an environment: imports may take long
CLOSE = 10.0  # seconds to close them all


class Workers(VectorEnv[Any, Any, Any]):
    """A vector environment that never resets by itself: `reset(options={"reset_mask": mask})` does. No infos.

    Whatever is asked of it raises a `Failure` when a worker has died, does not answer in time, or its environment
    raises; then it can only be closed.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012  Gymnasium's way to say it

    def __init__(self, make: Callable[[], Env], spaces: Spaces, seeds: Sequence[int], timeout: float) -> None:
        """`make` is called in each worker, after its global generators were seeded with one of `seeds`.

        `spaces` are those of what it makes. `timeout` in seconds, of an answer.
        """
        self.num_envs, self.timeout = len(seeds), timeout
        num_envs, made = len(seeds), pickle.dumps(CloudpickleWrapper(make))  # read in the worker: it may import modules
        self.single_observation_space, self.single_action_space = spaces
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        context = multiprocessing.get_context("forkserver")
        shape, kind = self.observation_space.shape or (), np.dtype(self.observation_space.dtype)
        memory = context.RawArray(ctypes.c_byte, max(1, int(np.prod(shape)) * kind.itemsize))
        self.observations = table(memory, shape, kind)
        self._pipes: list[Any] = []
        self._processes: list[Any] = []
        self._busy = set(range(num_envs))  # those that owe an answer
        # The workers hear no signal but SIGKILL, which is not what the interpreter would send them at its end.
        self._end = Finalize(self, _end, (self._processes, self._pipes, self._busy), exitpriority=10)
        _start_server()
        for index, seed in enumerate(seeds):
            pipe, far = context.Pipe()
            arguments = (index, seed, made, far, memory, shape, kind)
            process = context.Process(target=work, args=arguments)  # a daemon may have no processes of its own
            process.start()
            far.close()
            self._pipes.append(pipe)
            self._processes.append(process)
        try:
            self._hear(range(num_envs), START, "did not make its environment")
        except Exception:
            self.close()
            raise

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Reset all, or those of `options["reset_mask"]` (N,) bool; the observations (N, ...) of all."""
        if isinstance(seed, int):
            seed = range(seed, seed + self.num_envs)
        others = None if options is None else {key: value for key, value in options.items() if key != "reset_mask"}
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, dtype=bool))
        rows = np.flatnonzero(mask).tolist()
        self._ask("reset", {row: (None if seed is None else seed[row], others) for row in rows})
        return self.observations, {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Of actions (N, ...): observation (N, ...), reward (N,), terminated (N,) and truncated (N,) bool."""
        each = {row: (action,) for row, action in enumerate(iterate(self.action_space, actions))}
        reward, terminated, truncated = zip(*self._ask("step", each), strict=True)
        return self.observations, np.array(reward), np.array(terminated), np.array(truncated), {}

    def snapshot_obstacle(self) -> str:
        """Why single ones cannot be saved and restored: that would take a message each time."""
        return "they run in worker processes"

    def obstacle(self) -> str | None:
        """Why they cannot be saved and restored exactly from a file, in a few words; None if they can."""
        return next(filter(None, self._ask("obstacle")), None)

    def state_dict(self) -> list[dict[str, Any]]:
        """The whole states of all environments, as `Slots.state_dict` gives them."""
        return self._ask("save")

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Restore what `state_dict` gave, of these or of `Slots`. Raises `CheckpointError` if it does not fit."""
        self._ask("load", {row: (one,) for row, one in enumerate(state)})

    def close_extras(self, **kwargs: Any) -> None:
        """End the workers, those that hang by force. Raises the first `Failure` in that."""
        for failure in self._end() or ():
            raise failure

    def _ask(self, request: str, arguments: dict[int, tuple[Any, ...]] | None = None) -> list[Any]:
        """The answers of the workers asked, all of them by default."""
        asked = dict.fromkeys(range(self.num_envs), ()) if arguments is None else arguments
        for row, argument in asked.items():
            self._busy.add(row)
            try:
                self._pipes[row].send((request, argument))
            except OSError as error:
                raise self._death(row) from error
        return self._hear(asked, self.timeout, "gave no answer")

    def _hear(self, rows: Iterable[int], timeout: float, late: str) -> list[Any]:
        """The answers of `rows`; `late` says what one of them failed to do if `timeout` seconds pass."""
        deadline, answers = time.monotonic() + timeout, []
        for row in rows:
            try:
                if not self._pipes[row].poll(_left(deadline)):
                    raise Failure(f": worker process {row} {late} within {timeout:g} s")
                answers.append(self._pipes[row].recv())
                self._busy.discard(row)
            except (EOFError, OSError) as error:
                raise self._death(row) from error
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def _death(self, row: int) -> Failure:
        self._processes[row].join(GRACE)
        status = self._processes[row].exitcode
        end = "broke off" if status is None else f"ended with status {status}"
        return Failure(f": worker process {row} {f'was killed by signal {-status}' if (status or 0) < 0 else end}")


def _start_server() -> None:
    """The process that workers are forked from. It has imported what they need, and has no threads that a fork loses.

    A signal to the whole process group would end it, and all workers with it: it is born deaf.
    """
    _keep_sockets_short()
    context = type(multiprocessing.get_context()).__module__  # a worker is told how this process would start others
    multiprocessing.get_context("forkserver").set_forkserver_preload(["trpo_cli.envs.make", context])
    with unheard(SIGNALS):
        forkserver.ensure_running()


def _keep_sockets_short() -> None:
    """Have multiprocessing, and nobody else, use a shorter folder if the names of its sockets would be too long.

    Raises `ConfigError` if there is none.
    """
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) <= LONGEST_FOLDER:
        return
    tempfile.tempdir = SHORT_FOLDER
    try:
        util.get_temp_dir()  # which it remembers
    except OSError as error:
        raise ConfigError(
            f"sampler.vectorization: TMPDIR={folder} is too long for the sockets of worker processes, and in "
            f"{SHORT_FOLDER} nothing can be made: {error.strerror}; give a shorter one, or take sync"
        ) from error
    finally:
        tempfile.tempdir = folder


def _end(processes: list[Any], pipes: list[Connection], busy: set[int]) -> list[Failure]:
    """Have all environments closed and the workers ended, those that take too long by force; what went wrong.

    The `busy` ones may never hear of it. They get less time, and why is known already.
    """
    start, failures = time.monotonic(), []
    try:
        for pipe in pipes:
            with contextlib.suppress(OSError):
                pipe.send(("close", ()))
        for row, (process, pipe) in enumerate(zip(processes, pipes, strict=False)):
            deadline = start + (GRACE if row in busy else CLOSE)
            failures += _last_words(pipe, deadline)
            process.join(_left(deadline))
            if process.is_alive() and row not in busy:
                failures.append(Failure(f": worker process {row} did not end within {CLOSE:g} s, and was killed"))
    finally:
        for process in processes:
            _kill(process)
        for pipe in pipes:
            pipe.close()
    return failures


def _last_words(pipe: Connection, deadline: float) -> list[Failure]:
    """What a worker says to its end, if that is not as it should be; answers that nobody took come before."""
    with contextlib.suppress(EOFError, OSError):
        while pipe.poll(_left(deadline)):
            answer = pipe.recv()
            if isinstance(answer, Failure):
                return [answer]
            if answer == CLOSED:
                break
    return []


def _kill(process: Any) -> None:
    """End it by force, if it has not ended, and the processes of its environment, if it did not end well."""
    if process.exitcode != 0:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if process.is_alive():
        process.kill()
        process.join(GRACE)


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
