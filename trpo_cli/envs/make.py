"""The one place where environments are made: a task's configuration -> the fastest exact vector environment."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from inspect import Parameter, signature
from typing import Any, Literal, NamedTuple

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import VectorEnv

from trpo_cli.envs.closing import close_safely
from trpo_cli.envs.failure import INTERRUPTS, Failure, describe_error
from trpo_cli.envs.in_turn import InTurn
from trpo_cli.envs.mujoco.batch import MujocoBatch, batch_obstacle
from trpo_cli.envs.registered import is_registered, registered_ids, versions
from trpo_cli.envs.spaces import action_decoder, observation_encoder
from trpo_cli.envs.watched import Watched
from trpo_cli.envs.workers import Spaces, Workers
from trpo_cli.errors import ConfigError, counted, did_you_mean
from trpo_cli.ranges import Count, Positive
from trpo_cli.seeding import isolate_globals

Vectorization = Literal["auto", "native", "sync", "async"]
WORKERS_PAY = 200e-6  # seconds a step: below it, talking to a worker process costs more than the step (2 cores)


class Parallelism(NamedTuple):
    """How environments run side by side. What they return does not depend on it."""

    vectorization: Vectorization = "auto"  # one native batch, in turn, in worker processes, or the fastest of these
    num_threads: int | None = None  # of the native batch; None: one a core
    in_process: bool = False  # whether "auto" leaves out worker processes, where nothing can be tried out


FASTEST = Parallelism()


@dataclass(frozen=True)
class Width:
    """How many environments a sampler acts in, and how they run side by side: keys of `sampler`."""

    num_envs: Count = 1
    vectorization: Vectorization = "auto"
    num_threads: Count | None = None


Maker = Callable[[Sequence[int]], VectorEnv[Any, Any, Any]]
"""Makes an environment a seed."""


class Vectorized(NamedTuple):
    """Environments side by side, how (for the log), and others made in the same way."""

    envs: VectorEnv[Any, Any, Any]
    how: str
    make_others: Maker


@dataclass(frozen=True)
class Task:
    """What is to be solved: a registered environment, and how its observations and rewards reach the learner."""

    id: str
    kwargs: dict[str, Any]  # of the environment's constructor
    max_episode_steps: Count | None  # None: the registered time limit
    normalize_observation: bool
    normalize_reward: bool
    observation_clip: Positive  # standard deviations
    reward_clip: Positive  # standard deviations of the return
    step_timeout: Positive = 60.0  # seconds that a worker process may take for a step or a reset
    complaints: set[str] = field(default_factory=set, init=False, repr=False, compare=False)  # told, of closing

    def make(self, seeds: Sequence[int], parallelism: Parallelism = FASTEST) -> Vectorized:
        """A copy a seed. They never reset by themselves: the caller does, with `options={"reset_mask": ...}`.

        From its seed follows what a copy in a worker process draws from global generators, already as it is made.
        Raises `ConfigError` if the environment is unknown, cannot be made, or is not to be had natively, and
        `EnvironmentFault` or `EnvironmentContractError` if its steps are timed and go wrong.
        """
        how, make = self._planned(len(seeds), parallelism)
        return Vectorized(make(seeds), how, make)

    @isolate_globals(0, "probe")
    def _planned(self, num_envs: int, parallelism: Parallelism) -> tuple[str, Maker]:
        """How they are to run, found out with one that is made for that. Raises as `make` does."""
        with self.looked_at() as env:
            spaces: Any = getattr(env, "observation_space", None), getattr(env, "action_space", None)
            observation_encoder(spaces[0], self.id)  # spaces that no policy reads are refused here
            action_decoder(spaces[1], self.id)
            vectorization, reason = self._chosen(env, num_envs, parallelism)
        if vectorization == "native":
            threads = min(parallelism.num_threads or cores(), num_envs)
            return f"one MuJoCo batch, {counted(threads, 'thread')}", functools.partial(self._make_batch, threads)
        if vectorization == "sync":
            return f"stepped in turn ({reason})", functools.partial(self._make_in_turn, spaces)
        return f"in {counted(num_envs, 'worker process')} ({reason})", functools.partial(self._make_workers, spaces)

    def _chosen(
        self, env: gymnasium.Env[Any, Any], num_envs: int, parallelism: Parallelism
    ) -> tuple[Vectorization, str]:
        """How to run environments like `env`, which may be stepped to find out; and why so."""
        vectorization, _, in_process = parallelism
        obstacle = batch_obstacle(env)
        if obstacle is None and vectorization in ("auto", "native"):
            return "native", ""
        if vectorization == "native":
            raise ConfigError(f"sampler.vectorization: native is not for {self.id}: {obstacle}")
        reason = f"not native: {obstacle}" if obstacle else "as asked"
        if vectorization == "auto":
            vectorization = "sync"
            if min(num_envs, cores()) > 1 and not in_process:
                seconds = self._seconds_a_step(env)
                reason += f"; {1e6 * seconds:.0f} µs a step"
                vectorization = "async" if seconds > WORKERS_PAY else "sync"
        return vectorization, reason

    @contextlib.contextmanager
    def looked_at(self) -> Iterator[gymnasium.Env[Any, Any]]:
        """A single environment, closed before others are made: of some there can be but one at a time.

        Raises `ConfigError` as `make_one` does.
        """
        env = self.make_one()
        try:
            yield env
        finally:
            self.let_go(env.close)

    def let_go(self, close: Callable[[], object]) -> None:
        """Have environments closed. What goes wrong in that is told, once a run, and ends nothing."""
        close_safely(close, self.id, self.complaints)

    def _make_batch(self, num_threads: int, seeds: Sequence[int]) -> MujocoBatch:
        return MujocoBatch(self.make_one(), len(seeds), num_threads)

    def _make_in_turn(self, spaces: Spaces, seeds: Sequence[int]) -> InTurn:
        return InTurn(functools.partial(self._make_watched, spaces), len(seeds))

    def _make_watched(self, spaces: Spaces, index: int) -> Watched:
        return Watched(self._make_alike(spaces), index)

    def _make_workers(self, spaces: Spaces, seeds: Sequence[int]) -> Workers:
        """From the spec, since a plugin's id is not registered there."""
        make = functools.partial(self._make_alike, spaces, gymnasium.spec(self.id))
        return Workers(make, spaces, seeds, self.step_timeout)

    def _make_alike(self, spaces: Spaces, spec: EnvSpec | None = None) -> gymnasium.Env[Any, Any]:
        """One with these spaces. Raises `ConfigError` if it has others: one policy is for all."""
        env = self.make_one(spec)
        for space, other in zip(spaces, (env.observation_space, env.action_space), strict=True):
            if space != other:
                self.let_go(env.close)
                raise ConfigError(f"env.id: {self.id} has other spaces each time it is made: {space}, then {other}")
        return env

    def make_one(self, spec: EnvSpec | None = None) -> gymnasium.Env[Any, Any]:
        """A single environment, as Gymnasium makes it. Raises `ConfigError` if it is unknown or cannot be made."""
        if ":" in self.id:  # Gymnasium would import the module
            module, _, name = self.id.partition(":")
            raise ConfigError(f"env.id: no package is named in an id; say plugins=[{module}] env.id={name}")
        if spec is None and not is_registered(self.id):
            others = versions(self.id, registered_ids())
            raise ConfigError(
                f"env.id: no environment is registered as '{self.id}'"
                + (f"; its versions are {', '.join(others)}" if others else did_you_mean(self.id, registered_ids()))
                + "\nOne of your own is registered by its package: plugins=[PACKAGE], or --plugins PACKAGE of trpo-eval"
            )
        try:
            with warnings.catch_warnings():
                # The user asked for this version by name; that a newer one exists is no news.
                warnings.filterwarnings("ignore", message=".*is out of date.*")
                warnings.filterwarnings("ignore", message=".*deprecated.*")
                return gymnasium.make(
                    spec or self.id, max_episode_steps=self.max_episode_steps, disable_env_checker=True, **self.kwargs
                )
        except INTERRUPTS:
            raise
        except BaseException as error:  # of a constructor that calls `sys.exit`, too
            if misnamed := re.search(r"unexpected keyword argument '(\w+)'", str(error)):
                raise ConfigError(self._no_argument(misnamed[1])) from error
            said = str(error).partition(" was raised from the environment creator")[0]
            reason = said if said and isinstance(error, Exception) else describe_error(error)
            raise ConfigError(f"env.id: {self.id} cannot be made with {self.kwargs}: {reason}") from error

    def _no_argument(self, name: str) -> str:
        entry: Any = gymnasium.spec(self.id).entry_point
        creator = load_env_creator(entry) if isinstance(entry, str) else entry
        named = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
        known = [key for key, parameter in signature(creator).parameters.items() if parameter.kind in named]
        hint = did_you_mean(name, known) or f"; there are: {', '.join(known) or 'none'}"
        return f"env.kwargs.{name}: no such argument of {self.id}{hint}"

    def _seconds_a_step(self, env: gymnasium.Env[Any, Any], steps: int = 30) -> float:
        """The median time of a step under random actions. Raises as `Environments.step` does."""
        times, ended, watched = [0.0], True, Watched(env, 0)
        watched.simulator = None  # random actions may well upset it
        env.action_space.seed(0)
        try:
            while len(times) <= steps:
                if ended:
                    watched.reset(seed=0)
                action = env.action_space.sample()
                times.append(time.perf_counter())
                _, _, terminated, truncated, _ = watched.step(action)
                times[-1] = time.perf_counter() - times[-1]
                ended = terminated or truncated
        except Failure as failure:
            raise failure.as_user_error(self.id, len(times) - 1) from failure
        return sorted(times[1:])[steps // 2]


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
