"""The one place where environments are made: a task's configuration -> `gymnasium.vector.VectorEnv`."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from trpo_cli.errors import ConfigError, nearest
from trpo_cli.ranges import Count, Positive


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

    def make(self, num_envs: int) -> VectorEnv[Any, Any, Any]:
        """`num_envs` copies. They never reset by themselves: the caller does, with `options={"reset_mask": ...}`.

        Raises `ConfigError` if the environment is unknown or cannot be made.
        """
        return SyncVectorEnv([self._make_one] * num_envs, autoreset_mode=AutoresetMode.DISABLED, copy=False)

    def _make_one(self) -> gymnasium.Env[Any, Any]:
        if ":" in self.id:  # Gymnasium would import the module
            module, _, name = self.id.partition(":")
            raise ConfigError(f"env.id: no package is named in an id; say plugins=[{module}] env.id={name}")
        try:
            with warnings.catch_warnings():
                # The user asked for this version by name; that a newer one exists is no news.
                warnings.filterwarnings("ignore", message=".*is out of date.*")
                warnings.filterwarnings("ignore", message=".*deprecated.*")
                return gymnasium.make(
                    self.id, max_episode_steps=self.max_episode_steps, disable_env_checker=True, **self.kwargs
                )
        except gymnasium.error.UnregisteredEnv as error:
            raise ConfigError(
                f"env.id: no environment is registered as '{self.id}'{nearest(self.id, gymnasium.registry)}\n"
                "One of your own is registered by its package: name that in plugins=[...], or --plugins of trpo-eval."
            ) from error
        except Exception as error:
            raise ConfigError(f"env.id: {self.id} cannot be made with {self.kwargs}: {error}") from error
