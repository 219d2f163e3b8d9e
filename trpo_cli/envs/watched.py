"""A single environment that says its number when something goes wrong in it."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.envs.mujoco import MujocoEnv

from trpo_cli.envs.failure import raised
from trpo_cli.envs.snapshot import seed_spaces
from trpo_cli.envs.stability import WARNINGS, unstable


class Watched(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Environment number `index` of several. `reset` and `step` raise a `Failure` and nothing else."""

    def __init__(self, env: gymnasium.Env[Any, Any], index: int) -> None:
        super().__init__(env)
        self.index = index
        self.simulator: Any = env.unwrapped if isinstance(env.unwrapped, MujocoEnv) else None

    def reset(self, *, seed: int | None = None, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        try:
            if seed is not None:
                seed_spaces(self.env, seed)
            return self.env.reset(seed=seed, **kwargs)
        except Exception as error:
            raise raised(self.index, error, " in a reset") from error

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        try:
            outcome = self.env.step(action)
        except Exception as error:
            raise raised(self.index, error) from error
        if self.simulator is not None and (counts := self.simulator.data.warning.number[WARNINGS]).any():
            raise unstable(self.index, counts)
        return outcome
