"""Environments are made here only: the configuration of a task becomes the fastest exact vector environment."""

from __future__ import annotations

import contextlib
import functools
import math
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from inspect import Parameter, signature
from typing import Any, Literal, NamedTuple

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator

from trpo_cli.data import ObservationSpec
from trpo_cli.envs.backend import Backend
from trpo_cli.envs.closing import close_safely
from trpo_cli.envs.failure import INTERRUPTS, Failure, describe_error
from trpo_cli.envs.in_turn import InTurn
from trpo_cli.envs.joining import join
from trpo_cli.envs.mujoco.batch import MujocoBatch, batch_obstacle
from trpo_cli.envs.registered import explain_atari, is_registered, registered_ids, versions
from trpo_cli.envs.spaces import Decoder, Encoder, Rescale, action_decoder, observation_encoder
from trpo_cli.envs.view import Entries, prepare_images, select_entries
from trpo_cli.envs.watched import Watched
from trpo_cli.envs.workers import Spaces, Workers
from trpo_cli.envs.wrappers import Wrappers
from trpo_cli.errors import ConfigError, counted, did_you_mean
from trpo_cli.memory import refuse_oversized_observation
from trpo_cli.models.distributions import Distribution
from trpo_cli.ranges import Count, Positive
from trpo_cli.seeding import isolate_globals
from trpo_cli.threads import cores

Vectorization = Literal["auto", "native", "sync", "async"]
WORKERS_PAY = 200e-6  # seconds a step; a faster step costs less than talking to a worker process (2 cores)


class Parallelism(NamedTuple):
    """How environments run side by side, on which nothing that they return depends."""

    vectorization: Vectorization = "auto"  # a native batch, in turn (sync), worker processes (async), or the fastest
    num_threads: int | None = None  # of the native batch; None: one per core
    in_process: bool = False  # whether "auto" may not choose worker processes


FASTEST = Parallelism()


@dataclass(frozen=True)
class Width:
    """How many environments a sampler acts in, and how they run side by side: keys of `sampler`."""

    num_envs: Count = 1
    vectorization: Vectorization = "auto"
    num_threads: Count | None = None


Maker = Callable[[Sequence[int]], Backend]
"""Makes one environment for each seed."""


class Vectorized(NamedTuple):
    """Environments side by side, how they run (for the log), and a function that makes others like them."""

    envs: Backend
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
    wrappers: Wrappers = field(default_factory=Wrappers)  # around what `gymnasium.make` returns
    rescale_action: Rescale = False  # whether -1 and 1 stand for the bounds of an action
    observe: Entries | None = None  # of a vector; None: all
    hide: Entries | None = None
    grey: bool = False  # whether images lose their colours
    resize: list[Count] | None = None  # height and width of images in pixels; None: as they are
    stack: Count = 1  # observations that a policy sees at once
    sign_reward: bool = False  # whether the learner is given the signs of rewards
    log_info: list[str] = field(default_factory=list)  # numbers in the infos at the end of episodes, by name
    complaints: set[str] = field(default_factory=set, init=False, repr=False, compare=False)  # logged once

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a size that is not two numbers."""
        if self.resize is not None and len(self.resize) != 2:
            raise ConfigError(f"env.resize: got {self.resize}; it should be [HEIGHT, WIDTH] in pixels")
        refuse_oversized_observation("env.resize: the resized observations have", math.prod(self.resize or ()))

    def make(self, seeds: Sequence[int], parallelism: Parallelism = FASTEST) -> Vectorized:
        """Make one copy for each seed. The caller resets them, with `options={"reset_mask": ...}`; they never do.

        The seed of a copy in a worker process also seeds that process's global generators before the copy is made.
        Raises `ConfigError` if the environment is unknown, cannot be made, or has no native batch where one is
        required, and `EnvironmentFault` or `EnvironmentContractError` if steps that are timed fail.
        """
        how, make = self._plan(len(seeds), parallelism)
        return Vectorized(make(seeds), how, make)

    def describe_rules(self) -> str:
        """Say by which rules of this program the environment is played; empty if there are none."""
        return ""

    def make_encoder(self, space: gymnasium.Space[Any]) -> tuple[ObservationSpec, Encoder]:
        """Return what a policy reads of an observation in this space, and the function that encodes it.

        Raises `ConfigError` if no policy can read it, or it does not have the entries to observe or hide or the pixels
        to prepare.
        """
        prepared = prepare_images(*observation_encoder(space), self.grey, self.resize, self.id)
        return select_entries(*prepared, self.observe, self.hide, self.id)

    def prepares_images(self, space: gymnasium.Space[Any]) -> bool:
        """Whether images in this space lose their colours or get another size before a policy reads them."""
        spec, encode = observation_encoder(space)
        return prepare_images(spec, encode, self.grey, self.resize, self.id)[1] is not encode

    def make_decoder(self, space: gymnasium.Space[Any]) -> tuple[Distribution, Decoder]:
        """Return the policy's distribution for this space, and the function that decodes its actions.

        Raises `ConfigError` if there is none, or no bounds to rescale to where that was asked for.
        """
        return action_decoder(space, self.id, self.rescale_action)

    @isolate_globals(0, "probe")
    def _plan(self, num_envs: int, parallelism: Parallelism) -> tuple[str, Maker]:
        """Make one environment to find out how all should run. Raises as `make` does."""
        with self.probe() as env:
            spaces = self.read_spaces(env)
            spec, _ = self.make_encoder(spaces[0])  # raises for a space that no policy can read
            which = "env.stack: the stacked" if self.stack > 1 else "env.resize: the resized"
            refuse_oversized_observation(f"{which} observations have", spec.size * self.stack)
            self.make_decoder(spaces[1])
            vectorization, reason = self._choose(env, num_envs, parallelism)
        if vectorization == "native":
            return self.plan_native(spaces, min(parallelism.num_threads or cores(), num_envs))
        if vectorization == "sync":
            return f"stepped in turn ({reason})", functools.partial(self.make_in_turn, spaces)
        return f"in {counted(num_envs, 'worker process')} ({reason})", functools.partial(
            self.make_workers, spaces, None
        )

    def _choose(
        self, env: gymnasium.Env[Any, Any], num_envs: int, parallelism: Parallelism
    ) -> tuple[Vectorization, str]:
        """Choose how to run environments like `env`, which may be stepped to time it, and say why."""
        vectorization, _, in_process = parallelism
        obstacle = self.native_obstacle(env)
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

    def native_obstacle(self, env: gymnasium.Env[Any, Any]) -> str | None:
        """Return why there is no native batch of environments like `env`, or None if there is."""
        return batch_obstacle(env)

    def plan_native(self, spaces: Spaces, num_threads: int) -> tuple[str, Maker]:
        """Return how a native batch runs, for the log, and the function that makes it."""
        how = f"one MuJoCo batch, {counted(num_threads, 'thread')}"
        return how, functools.partial(self._make_batch, num_threads)

    @contextlib.contextmanager
    def probe(self) -> Iterator[gymnasium.Env[Any, Any]]:
        """Make a single environment to look at, and close it before others are made: some exist only one at a time.

        Raises `ConfigError` as `make_one` does.
        """
        env = self.make_one()
        try:
            yield env
        finally:
            self.close_safely(env.close)

    def close_safely(self, close: Callable[[], object]) -> None:
        """Close environments. A failure is logged, once for each message, and ends nothing."""
        close_safely(close, self.id, self.complaints)

    def _make_batch(self, num_threads: int, seeds: Sequence[int]) -> MujocoBatch:
        return MujocoBatch(self.make_one(), len(seeds), num_threads)

    def make_in_turn(self, spaces: Spaces, seeds: Sequence[int]) -> InTurn:
        """Make environments of this process. Raises `ConfigError` if the spaces of one are others."""
        return self._make_group(spaces, None, range(len(seeds)))

    def make_workers(self, spaces: Spaces, count: int | None, seeds: Sequence[int]) -> Workers:
        """Make environments in `count` worker processes; None: each in its own.

        Pass the spec, since the id of a plugin is not registered there.
        """
        make = functools.partial(self._make_group, spaces, gymnasium.spec(self.id))
        return Workers(make, spaces, seeds, self.step_timeout, count)

    def _make_group(self, spaces: Spaces, spec: EnvSpec | None, rows: range) -> InTurn:
        return InTurn(lambda index: Watched(self._make_alike(spaces, spec), rows[index]), len(rows))

    def _make_alike(self, spaces: Spaces, spec: EnvSpec | None = None) -> gymnasium.Env[Any, Any]:
        """Make one environment. Raises `ConfigError` if its spaces differ: one policy acts in all environments."""
        env = self.make_one(spec)
        for space, other in zip(spaces, self.read_spaces(env), strict=True):
            if space != other:
                self.close_safely(env.close)
                raise ConfigError(f"env.id: {self.id} has other spaces each time it is made: {space}, then {other}")
        return env

    def read_spaces(self, env: gymnasium.Env[Any, Any]) -> Any:
        """Return the space of the observations, joined, and that of the actions. Raises `ConfigError` if one raises."""
        try:
            given = getattr(env, "observation_space", None), getattr(env, "action_space", None)
        except INTERRUPTS:
            raise
        except BaseException as error:
            raise ConfigError(f"env.id: the spaces of {self.id} raise {describe_error(error)}") from error
        return join(given[0]), given[1]

    def make_one(self, spec: EnvSpec | None = None) -> gymnasium.Env[Any, Any]:
        """Make one environment with its wrappers. Raises `ConfigError` if it is unknown or cannot be made."""
        return self.wrappers.wrap(self._make_bare(spec))

    def find_spec(self) -> EnvSpec:
        """Return what is registered as this id. Raises `ConfigError` if nothing is."""
        if ":" in self.id:  # Gymnasium would import the module
            module, _, name = self.id.partition(":")
            raise ConfigError(f"env.id: no package is named in an id; write plugins=[{module}] env.id={name}")
        if not is_registered(self.id):
            others = versions(self.id, registered_ids())
            raise ConfigError(
                f"env.id: no environment is registered as '{self.id}'"
                + (f"; its versions are {', '.join(others)}" if others else did_you_mean(self.id, registered_ids()))
                + "\nOne of your own is registered by its package: plugins=[PACKAGE] of trpo-train, "
                f"or --plugins PACKAGE of other commands{explain_atari(self.id)}"
            )
        return gymnasium.spec(self.id)

    def _make_bare(self, spec: EnvSpec | None) -> gymnasium.Env[Any, Any]:
        """Make one environment with Gymnasium."""
        spec = spec or self.find_spec()
        try:
            with warnings.catch_warnings():
                # The user asked for this version by name, and need not hear that a newer one exists.
                warnings.filterwarnings("ignore", message=".*(is out of date|deprecated).*")
                return gymnasium.make(
                    spec, max_episode_steps=self.max_episode_steps, disable_env_checker=True, **self.kwargs
                )
        except INTERRUPTS:
            raise
        except BaseException as error:  # of a constructor that calls `sys.exit`, too
            if misnamed := re.search(r"unexpected keyword argument '(\w+)'", str(error)):
                raise ConfigError(self._describe_unknown_argument(misnamed[1])) from error
            said = str(error).partition(" was raised from the environment creator")[0]
            reason = said if said and isinstance(error, Exception) else describe_error(error)
            raise ConfigError(f"env.id: {self.id} cannot be made with {self.kwargs}: {reason}") from error

    def _describe_unknown_argument(self, name: str) -> str:
        entry: Any = gymnasium.spec(self.id).entry_point
        creator = load_env_creator(entry) if isinstance(entry, str) else entry
        named = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
        known = [key for key, parameter in signature(creator).parameters.items() if parameter.kind in named]
        hint = did_you_mean(name, known) or f"; there are: {', '.join(known) or 'none'}"
        return f"env.kwargs.{name}: no such argument of {self.id}{hint}"

    def _seconds_a_step(self, env: gymnasium.Env[Any, Any], steps: int = 30) -> float:
        """Return the median time of a step under random actions. Raises as `Environments.step` does."""
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
