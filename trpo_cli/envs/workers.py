"""Environments in worker processes, one each: faults named, none waited for without end, none left behind.

A worker answers one request at a time over its pipe; observations come through shared memory. A closed pipe ends it.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import CloudpickleWrapper, batch_space, iterate
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from trpo_cli.envs.failure import Failure, raised
from trpo_cli.envs.slots import Place
from trpo_cli.envs.watched import Watched
from trpo_cli.errors import UserError

Env = gymnasium.Env[Any, Any]
Array = NDArray[Any]
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Terminals and schedulers send them to every process of a run; the first one finishes its iteration."""
GRACE = 2.0  # seconds that workers have to close their environments


class Workers(VectorEnv[Any, Any, Any]):
    """A vector environment that never resets by itself: `reset(options={"reset_mask": mask})` does. No infos.

    Whatever is asked of it raises a `Failure` when a worker has died, does not answer in time, or its environment
    raises; then it can only be closed.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012  Gymnasium's way to say it

    def __init__(self, make: Callable[[], Env], env: Env, num_envs: int, timeout: float) -> None:
        """`make` is called in each worker; `env`, made by it, has the spaces. `timeout` in seconds, of an answer."""
        self.num_envs, self.spec, self.timeout = num_envs, env.spec, timeout
        self.single_observation_space, self.single_action_space = env.observation_space, env.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        context = multiprocessing.get_context("forkserver")
        shape, kind = self.observation_space.shape or (), np.dtype(self.observation_space.dtype)
        memory = context.RawArray(ctypes.c_byte, max(1, int(np.prod(shape)) * kind.itemsize))
        self.observations = _table(memory, shape, kind)
        self._pipes: list[Any] = []
        self._processes: list[Any] = []
        # The workers hear no signal but SIGKILL, which is not what the interpreter would send them at its end.
        self._end = Finalize(self, _end, (self._processes, self._pipes), exitpriority=10)
        _start_server()
        for index in range(num_envs):
            pipe, far = context.Pipe()
            arguments = (index, CloudpickleWrapper(make), far, memory, shape, kind)
            process = context.Process(target=_work, args=arguments, daemon=True)
            process.start()
            far.close()
            self._pipes.append(pipe)
            self._processes.append(process)
        try:
            self._hear(range(num_envs), timeout=None)  # imports may take long
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
        """End the workers, those that hang by force."""
        self._end()

    def _ask(self, request: str, arguments: dict[int, tuple[Any, ...]] | None = None) -> list[Any]:
        """The answers of the workers asked, all of them by default."""
        asked = dict.fromkeys(range(self.num_envs), ()) if arguments is None else arguments
        for row, argument in asked.items():
            try:
                self._pipes[row].send((request, argument))
            except OSError as error:
                raise self._death(row) from error
        return self._hear(asked, self.timeout)

    def _hear(self, rows: Any, timeout: float | None) -> list[Any]:
        start, answers = time.monotonic(), []
        for row in rows:
            left = None if timeout is None else max(0.0, start + timeout - time.monotonic())
            try:
                if not self._pipes[row].poll(left):
                    raise Failure(f": worker process {row} gave no answer within {timeout:g} s")
                answers.append(self._pipes[row].recv())
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


class _Worker:
    """What is done for each request, by its name."""

    def __init__(self, index: int, env: Env, observations: Array) -> None:
        self._env, self._place, self._shown = env, Place(Watched(env, index)), observations[index : index + 1]

    def reset(self, seed: int | None, options: dict[str, Any] | None) -> None:
        observation, _ = self._place.env.reset(seed=seed, options=options)
        self._place.ended = False
        self._show(observation)

    def step(self, action: Any) -> tuple[float, bool, bool]:
        observation, reward, terminated, truncated, _ = self._place.env.step(action)
        self._place.ended = bool(terminated or truncated)
        self._show(observation)
        return float(reward), bool(terminated), bool(truncated)

    def obstacle(self) -> str | None:
        return self._place.obstacle()

    def save(self) -> dict[str, Any]:
        return self._place.save()

    def load(self, state: dict[str, Any]) -> None:
        self._place.load(state)
        self._show(self._place.observation)

    def _show(self, observation: Any) -> None:
        self._place.observation = observation
        self._shown[0] = np.asarray(observation, self._shown.dtype).reshape(self._shown.shape[1:])


def _work(index: int, make: Any, pipe: Connection, memory: Any, shape: tuple[int, ...], kind: Any) -> None:
    """A worker's life."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    threadpool_limits(1)
    with contextlib.suppress(EOFError, ConnectionError):  # the parent needs it no more
        try:
            env = make()
            worker = _Worker(index, env, _table(memory, shape, kind))
        except Exception as error:
            pipe.send(_told(index, error))
            return
        try:
            pipe.send(None)
            while True:
                pipe.send(_answer(index, worker, *pipe.recv()))
        finally:
            with contextlib.suppress(Exception):  # nobody is left to hear of it
                env.close()


def _die_with_parent() -> None:
    """A step may never come to its end, and see that the pipe is closed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        time.sleep(GRACE)
        os._exit(1)


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


def _table(memory: Any, shape: Any, kind: Any) -> Array:
    return np.frombuffer(memory, dtype=kind, count=int(np.prod(shape))).reshape(shape)


def _start_server() -> None:
    """The process that workers are forked from. It has imported what they need, and has no threads that a fork loses.

    A signal to the whole process group would end it, and all workers with it: it is born deaf.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(["trpo_cli.envs.make"])
    before = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)
    try:
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)  # the tracker's start lifts some
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(processes: list[Any], pipes: list[Connection]) -> None:
    for pipe in pipes:
        pipe.close()
    deadline = time.monotonic() + GRACE
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join(GRACE)
