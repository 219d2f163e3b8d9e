"""N environments of a task as a policy meets them: encoded observations in, unclipped actions out, faults named."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trpo_cli.envs.make import FASTEST, Parallelism, Task
from trpo_cli.envs.spaces import Floats, action_decoder, observation_encoder
from trpo_cli.errors import EnvironmentFault

Flags = NDArray[np.bool_]


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
        self.parallelism = parallelism
        self.observation_size, self._encode = observation_encoder(self._envs.single_observation_space, task.id)
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

    def restart(self, ended: Flags) -> Floats:
        """Reset the ended environments (N,) alone; the observations (N, O) of all."""
        self.observation = self._reset(options={"reset_mask": ended})
        return self.observation

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
