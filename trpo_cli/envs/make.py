"""The one place where environments are made: a task's configuration -> the fastest exact vector environment."""

from __future__ import annotations

import functools
import os
import re
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any, Literal, NamedTuple

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from trpo_cli.envs.mujoco_batch import MujocoBatch, not_exact
from trpo_cli.envs.registered import ids, registered, versions
from trpo_cli.envs.spaces import action_decoder, observation_encoder
from trpo_cli.envs.watched import Watched
from trpo_cli.envs.workers import Workers
from trpo_cli.errors import ConfigError, EnvironmentFault, nearest
from trpo_cli.ranges import Count, Positive
from trpo_cli.seeding import apart

Vectorization = Literal["auto", "native", "sync", "async"]
WORKERS_PAY = 200e-6  # seconds a step: below it, talking to a worker process costs more than the step (2 cores)


class Parallelism(NamedTuple):
    """How environments run side by side. What they return does not depend on it."""

    vectorization: Vectorization = "auto"  # one native batch, in turn, in worker processes, or the fastest of these
    num_threads: int | None = None  # of the native batch; None: one a core
    in_process: bool = False  # whether "auto" leaves out worker processes, where nothing can be tried out


FASTEST = Parallelism()


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

    def make(self, seeds: Sequence[int], parallelism: Parallelism = FASTEST) -> Vectorized:
        """A copy a seed. They never reset by themselves: the caller does, with `options={"reset_mask": ...}`.

        From its seed follows what a copy in a worker process draws from global generators, already as it is made.
        Raises `ConfigError` if the environment is unknown, cannot be made, or is not to be had natively, and
        `EnvironmentFault` if it raises when a step of it is timed.
        """
        how, make = self._planned(len(seeds), parallelism)
        return Vectorized(make(seeds), how, make)

    @apart(0, "probe")
    def _planned(self, num_envs: int, parallelism: Parallelism) -> tuple[str, Maker]:
        """How they are to run, found out with one that is made for that. Raises as `make` does."""
        vectorization, num_threads, in_process = parallelism
        env = self.make_one()
        observation_encoder(env.observation_space, self.id)  # spaces that no policy reads are refused here
        action_decoder(env.action_space, self.id)
        obstacle = not_exact(env)
        if obstacle is None and vectorization in ("auto", "native"):
            threads = min(num_threads or cores(), num_envs)
            return f"one MuJoCo batch, {_count(threads, 'thread')}", functools.partial(self._make_batch, threads)
        if vectorization == "native":
            raise ConfigError(f"sampler.vectorization: native is not for {self.id}: {obstacle}")
        reason = f"not native: {obstacle}" if obstacle else "as asked"
        if vectorization == "auto":
            vectorization = "sync"
            if min(num_envs, cores()) > 1 and not in_process:
                seconds = self._seconds_a_step(env)
                reason += f"; {1e6 * seconds:.0f} µs a step"
                vectorization = "async" if seconds > WORKERS_PAY else "sync"
        env.close()
        if vectorization == "sync":
            return f"stepped in turn ({reason})", self._make_in_turn
        return f"in {_count(num_envs, 'worker process')} ({reason})", self._make_workers

    def _make_batch(self, num_threads: int, seeds: Sequence[int]) -> MujocoBatch:
        return MujocoBatch(self.make_one(), len(seeds), num_threads)

    def _make_in_turn(self, seeds: Sequence[int]) -> SyncVectorEnv[Any, Any]:
        makers = [functools.partial(self._make_watched, index) for index in range(len(seeds))]
        return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED, copy=False)

    def _make_watched(self, index: int) -> Watched:
        return Watched(self.make_one(), index)

    def _make_workers(self, seeds: Sequence[int]) -> Workers:
        """From the spec, since a plugin's id is not registered there; once in this process too, for the spaces."""
        make = functools.partial(self.make_one, gymnasium.spec(self.id))
        env = make()
        workers = Workers(make, env, seeds, self.step_timeout)
        env.close()
        return workers

    def make_one(self, spec: EnvSpec | None = None) -> gymnasium.Env[Any, Any]:
        """A single environment, as Gymnasium makes it. Raises `ConfigError` if it is unknown or cannot be made."""
        if ":" in self.id:  # Gymnasium would import the module
            module, _, name = self.id.partition(":")
            raise ConfigError(f"env.id: no package is named in an id; say plugins=[{module}] env.id={name}")
        if spec is None and not registered(self.id):
            others = versions(self.id, ids())
            raise ConfigError(
                f"env.id: no environment is registered as '{self.id}'"
                + (f"; its versions are {', '.join(others)}" if others else nearest(self.id, ids()))
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
        except Exception as error:
            if misnamed := re.search(r"unexpected keyword argument '(\w+)'", str(error)):
                raise ConfigError(self._no_argument(misnamed[1])) from error
            reason = str(error).partition(" was raised from the environment creator")[0]
            raise ConfigError(f"env.id: {self.id} cannot be made with {self.kwargs}: {reason}") from error

    def _no_argument(self, name: str) -> str:
        entry: Any = gymnasium.spec(self.id).entry_point
        creator = load_env_creator(entry) if isinstance(entry, str) else entry
        named = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
        known = [key for key, parameter in signature(creator).parameters.items() if parameter.kind in named]
        hint = nearest(name, known) or f"; there are: {', '.join(known) or 'none'}"
        return f"env.kwargs.{name}: no such argument of {self.id}{hint}"

    def _seconds_a_step(self, env: gymnasium.Env[Any, Any], steps: int = 30) -> float:
        """The median time of a step under random actions. Raises `EnvironmentFault` if the environment raises."""
        times, ended = [], True
        env.action_space.seed(0)
        try:
            for _ in range(steps):
                if ended:
                    env.reset(seed=0)
                action, start = env.action_space.sample(), time.perf_counter()
                _, _, terminated, truncated, _ = env.step(action)
                times.append(time.perf_counter() - start)
                ended = terminated or truncated
        except Exception as error:
            raise EnvironmentFault(
                f"{self.id} raised when a step of it was timed: {type(error).__name__}: {error}"
            ) from error
        return sorted(times)[steps // 2]


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{'es' if noun.endswith('s') else 's'}"
