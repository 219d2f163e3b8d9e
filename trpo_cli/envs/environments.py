"""N environments of a task as a policy meets them: encoded observations in, unclipped actions out, faults named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from numpy.typing import NDArray

from trpo_cli.envs.make import FASTEST, Parallelism, Task
from trpo_cli.envs.snapshot import Slots
from trpo_cli.envs.spaces import Floats, action_decoder, observation_encoder
from trpo_cli.errors import EnvironmentFault

Flags = NDArray[np.bool_]
Rows = NDArray[np.int64]


class Saved(NamedTuple):
    """One environment in the middle of an episode: plain data."""

    observation: Floats  # (O,)
    state: dict[str, Any]


class Environments:
    """Observations (N, O) float64 are not normalised; actions (N, A) are what the policy's distribution sampled."""

    def __init__(
        self,
        task: Task,
        num_envs: int,
        seeds: list[int],
        parallelism: Parallelism = FASTEST,
    ) -> None:
        """Make and reset them, environment i with `seeds[i]`.

        Raises `ConfigError` if they cannot be made or their spaces are not supported.
        """
        self.task, self.num_envs, self.steps = task, num_envs, 0
        self._envs, self.how = task.make(num_envs, parallelism)
        self._slots: Any = Slots(self._envs) if isinstance(self._envs, SyncVectorEnv) else self._envs
        self.parallelism = parallelism
        self.observation_size, self._encode = observation_encoder(self._envs.single_observation_space, task.id)
        space = self._envs.single_observation_space
        self.num_states = int(space.n) if isinstance(space, Discrete) else None
        self.distribution, self._decode = action_decoder(self._envs.single_action_space, task.id)
        self.observation = self._reset(seed=seeds)

    def step(self, action: NDArray[Any]) -> tuple[Floats, NDArray[np.float64], Flags, Flags]:
        """Observation (N, O), reward (N,), terminated (N,) and truncated (N,) bool, never both.

        Ended environments show their last observation and must be restarted before the next step. Raises
        `EnvironmentFault` when an action, observation or reward is not finite, or the environment raises.
        """
        self.steps += 1
        self._check_finite("action", action)
        try:
            observation, reward, terminated, truncated, _ = self._envs.step(self._decode(action))
        except Exception as error:
            raise self._fault(error) from error
        self.observation = self._encode(observation)
        self._check_finite("observation", self.observation)
        self._check_finite("reward", reward)
        return self.observation, reward, terminated, truncated & ~terminated

    def restart(self, ended: Flags, seeds: list[int] | None = None) -> Floats:
        """Reset the ended environments (N,) alone; the observations (N, O) of all.

        With `seeds` (N of them), all that is random until the next restart follows from the seed.
        """
        self.observation = self._reset(seed=seeds, options={"reset_mask": ended})
        return self.observation

    def snapshot_obstacle(self) -> str | None:
        """Why the environments cannot be saved and restored exactly, in a few words; None if they can."""
        if isinstance(self._envs, AsyncVectorEnv):
            return "they run in worker processes"
        return self._slots.obstacle() if isinstance(self._slots, Slots) else None

    def save(self, rows: Rows) -> list[Saved]:
        """The whole states of the environments `rows` (K,). There must be no `snapshot_obstacle`."""
        return [Saved(*pair) for pair in zip(self.observation[rows], self._slots.save(rows), strict=True)]

    def restore(self, rows: Rows, saved: Sequence[Saved]) -> None:
        """Put what was `saved` (K,) into the environments `rows` (K,), whichever they were saved from."""
        self._slots.restore(rows, [one.state for one in saved])
        for row, one in zip(rows.tolist(), saved, strict=True):
            self.observation[row] = one.observation

    def reseed(self, rows: Rows, seeds: Sequence[int]) -> None:
        """Start all random numbers of the environments `rows` (K,) anew from `seeds` (K,): two environments in one
        state, with one seed, meet the same future if the same actions are taken."""
        self._slots.reseed(rows, seeds)

    def close(self) -> None:
        self._envs.close()

    def _reset(self, **kwargs: Any) -> Floats:
        try:
            observation = self._encode(self._envs.reset(**kwargs)[0])
        except Exception as error:
            raise self._fault(error) from error
        self._check_finite("observation", observation)
        return observation

    def _fault(self, error: Exception) -> EnvironmentFault:
        return EnvironmentFault(
            f"{self.task.id} raised at step {self.steps} of each environment: {type(error).__name__}: {error}"
        )

    def _check_finite(self, name: str, value: NDArray[Any]) -> None:
        finite = np.isfinite(value)
        if finite.all():
            return
        index = int(np.flatnonzero(~finite.reshape(self.num_envs, -1).all(1))[0])
        raise EnvironmentFault(
            f"{self.task.id}: {name} is not finite at step {self.steps} of environment {index}: {value[index]}"
        )
