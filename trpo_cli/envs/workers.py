"""Environments in worker processes, with timeouts, clear errors, and no processes left behind.

This is the side of the parent; `worker.py` is that of the child.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import forkserver, util
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import CloudpickleWrapper, batch_space
from numpy.typing import NDArray

from trpo_cli.envs.backend import Backend
from trpo_cli.envs.failure import Failure
from trpo_cli.envs.in_turn import InTurn
from trpo_cli.envs.infos import Numbers
from trpo_cli.envs.slot import check_number
from trpo_cli.envs.worker import CLOSED, GRACE, shared_array, work
from trpo_cli.errors import ConfigError
from trpo_cli.run.signals import SIGNALS, block_signals

Array = NDArray[Any]
Spaces = tuple[gymnasium.Space[Any], gymnasium.Space[Any]]  # of observations and actions
LONGEST_FOLDER = 72  # bytes; a socket's path is limited to 103 on some systems, and 31 are added here
SHORT_FOLDER = "/tmp"
START = 300.0  # seconds to make an environment, including imports
CLOSE = 10.0  # seconds to close all environments


class Workers(Backend):
    """A vector environment without autoreset, to be reset by `reset(options={"reset_mask": mask})`, and without infos.

    Every method raises `Failure` if a worker has died, does not answer in time, or its environment raises; after that,
    the environments can only be closed.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012  as in Gymnasium

    def __init__(
        self, make: Callable[[range], InTurn], spaces: Spaces, seeds: Sequence[int], timeout: float, count: int | None
    ) -> None:
        """Start `count` workers, between which the environments are shared out in order, or one for each environment.

        In a worker, `make` makes the environments with the numbers in a range, after the global generators were seeded
        with the first of their `seeds`; these belong to an environment that has a worker of its own. `spaces` are those
        of an environment. `timeout` is the time limit of an answer in seconds.
        """
        self.num_envs, self.timeout = len(seeds), timeout
        self._groups = _share_out(self.num_envs, count or self.num_envs)
        self._slices = [slice(rows.start, rows.stop) for rows in self._groups]
        self.single_observation_space, self.single_action_space = spaces
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        context = multiprocessing.get_context("forkserver")
        shape, kind = self.observation_space.shape or (), np.dtype(self.observation_space.dtype)
        memory = context.RawArray(ctypes.c_byte, max(1, int(np.prod(shape)) * kind.itemsize))
        self.observations = shared_array(memory, shape, kind)
        self._pipes: list[Any] = []
        self._processes: list[Any] = []
        self._busy = set(range(len(self._groups)))  # workers that have not answered yet
        # At exit, the interpreter would send SIGTERM, which the workers ignore.
        self._end = Finalize(self, _end_workers, (self._processes, self._pipes, self._busy), exitpriority=10)
        _start_server()
        for rows in self._groups:
            pipe, far = context.Pipe()
            made = pickle.dumps(CloudpickleWrapper(functools.partial(make, rows)))  # to read it may import modules
            arguments = (rows, seeds[rows.start], count is None, made, far, memory, shape, kind)
            process = context.Process(target=work, args=arguments)  # no daemon, which could not start processes
            with _main_left_alone():
                process.start()
            far.close()
            self._pipes.append(pipe)
            self._processes.append(process)
        try:
            self._receive(range(len(self._groups)), START, "did not make its environment")
        except Exception:
            self.close()
            raise

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Reset all environments or those in `options["reset_mask"]` (N,) bool; return all observations (N, ...)."""
        if isinstance(seed, int):
            seed = range(seed, seed + self.num_envs)
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, dtype=bool))
        asked = {}
        for worker, own in enumerate(self._slices):
            if mask[own].any():
                asked[worker] = (seed and list(seed[own]), {**(options or {}), "reset_mask": mask[own]})
        self._ask("reset", asked)
        return self.observations, {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Take actions (N, ...); return observations (N, ...), rewards (N,), terminated and truncated (N,) bool."""
        asked = {worker: (actions[own],) for worker, own in enumerate(self._slices)}
        reward, terminated, truncated, lost = zip(*self._ask("step", asked), strict=True)
        self.lost = None if lost[0] is None else np.concatenate(lost)
        return self.observations, np.concatenate(reward), np.concatenate(terminated), np.concatenate(truncated), {}

    def read_numbers(self, rows: NDArray[np.int64], names: Sequence[str]) -> list[Numbers]:
        return self._ask_of_rows("read_numbers", rows, lambda places: (names,))

    def snapshot_obstacle(self) -> str | None:
        return next(filter(None, self._ask("snapshot_obstacle")), None)

    def file_obstacle(self) -> str | None:
        return next(filter(None, self._ask("file_obstacle")), None)

    def save(self, rows: NDArray[np.int64]) -> list[Any]:
        return self._ask_of_rows("save", rows, lambda places: ())

    def restore(self, rows: NDArray[np.int64], snapshots: Sequence[Any]) -> None:
        self._ask_of_rows("restore", rows, lambda places: ([snapshots[place] for place in places],))

    def reseed(self, rows: NDArray[np.int64], seeds: Sequence[int]) -> None:
        self._ask_of_rows("reseed", rows, lambda places: ([seeds[place] for place in places],))

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the whole states of all environments, in the format of `InTurn.state_dict`."""
        return list(itertools.chain(*self._ask("state_dict")))

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Restore what `state_dict` of `Workers` or `InTurn` returned."""
        check_number(state, self.num_envs)
        self._ask("load_state_dict", {worker: (state[own],) for worker, own in enumerate(self._slices)})

    def close_extras(self, **kwargs: Any) -> None:
        """End the workers, and kill those that hang. Raises the first `Failure`."""
        for failure in self._end() or ():
            raise failure

    def _ask_of_rows(
        self, request: str, rows: NDArray[np.int64], arguments: Callable[[list[int]], tuple[Any, ...]]
    ) -> list[Any]:
        """Send a request about the environments `rows` (K,) to their workers; return what they answer, by row (K,).

        `arguments` gives the further arguments of a request about those at some places in `rows`.
        """
        places = [np.flatnonzero((rows >= own.start) & (rows < own.stop)).tolist() for own in self._groups]
        asked = {
            worker: (rows[at] - self._groups[worker].start, *arguments(at)) for worker, at in enumerate(places) if at
        }
        answers: list[Any] = [None] * len(rows)
        for worker, answer in zip(asked, self._ask(request, asked), strict=True):
            for place, one in zip(places[worker], answer or (), strict=bool(answer)):
                answers[place] = one
        return answers

    def _ask(self, request: str, arguments: dict[int, tuple[Any, ...]] | None = None) -> list[Any]:
        """Send a request to the workers in `arguments`, by default all of them; return their answers."""
        asked = dict.fromkeys(range(len(self._groups)), ()) if arguments is None else arguments
        for row, argument in asked.items():
            self._busy.add(row)
            try:
                self._pipes[row].send((request, argument))
            except OSError as error:
                raise self._death(row) from error
        return self._receive(asked, self.timeout, "gave no answer")

    def _receive(self, rows: Iterable[int], timeout: float, late: str) -> list[Any]:
        """The answers of the workers `rows`. `late` says what a worker failed to do within `timeout` seconds."""
        deadline, answers = time.monotonic() + timeout, []
        for row in rows:
            try:
                if not self._pipes[row].poll(_seconds_until(deadline)):
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


def _share_out(num_envs: int, count: int) -> list[range]:
    """Share out the numbers of environments among so many workers, as evenly as possible."""
    ends = [num_envs * worker // count for worker in range(count + 1)]
    return [range(*pair) for pair in itertools.pairwise(ends)]


def _start_server() -> None:
    """Start the process that workers are forked from, which imports what they need and has no threads.

    Signals are blocked in it, since one to the process group would end it together with all workers.
    """
    _keep_sockets_short()
    context = type(multiprocessing.get_context()).__module__  # a worker receives the default start method
    multiprocessing.get_context("forkserver").set_forkserver_preload(["trpo_cli.envs.make", context])
    with block_signals(SIGNALS):
        forkserver.ensure_running()


@contextlib.contextmanager
def _main_left_alone() -> Iterator[None]:
    """Processes started within this context do not run the caller's script again; classes defined there are sent."""
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _keep_sockets_short() -> None:
    """Let multiprocessing alone use a shorter temporary folder if the paths of its sockets would be too long.

    Raises `ConfigError` if that is impossible.
    """
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) <= LONGEST_FOLDER:
        return
    tempfile.tempdir = SHORT_FOLDER
    try:
        util.get_temp_dir()  # multiprocessing remembers it
    except OSError as error:
        raise ConfigError(
            f"sampler.vectorization: TMPDIR={folder} is too long for the sockets of worker processes, and "
            f"{SHORT_FOLDER} is not writable: {error.strerror}; set a shorter TMPDIR, or use sync"
        ) from error
    finally:
        tempfile.tempdir = folder


def _end_workers(processes: list[Any], pipes: list[Connection], busy: set[int]) -> list[Failure]:
    """Close all environments and end the workers, killing those that take too long; return what went wrong.

    `busy` workers may hang, so they get less time, and their failures are known already.
    """
    start, failures = time.monotonic(), []
    try:
        for pipe in pipes:
            with contextlib.suppress(OSError):
                pipe.send(("close", ()))
        for row, (process, pipe) in enumerate(zip(processes, pipes, strict=False)):
            deadline = start + (GRACE if row in busy else CLOSE)
            failures += _final_failure(pipe, deadline)
            process.join(_seconds_until(deadline))
            if process.is_alive() and row not in busy:
                failures.append(Failure(f": worker process {row} did not end within {CLOSE:g} s, and was killed"))
    finally:
        for process in processes:
            _kill(process)
        for pipe in pipes:
            pipe.close()
    return failures


def _final_failure(pipe: Connection, deadline: float) -> list[Failure]:
    """The failure that a worker reports on closing, if any. Answers that nobody has read are skipped."""
    with contextlib.suppress(EOFError, OSError):
        while pipe.poll(_seconds_until(deadline)):
            answer = pipe.recv()
            if isinstance(answer, Failure):
                return [answer]
            if answer == CLOSED:
                break
    return []


def _kill(process: Any) -> None:
    """Kill a worker that has not ended, and the processes of its environment unless it ended normally."""
    if process.exitcode != 0:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if process.is_alive():
        process.kill()
        process.join(GRACE)


def _seconds_until(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
