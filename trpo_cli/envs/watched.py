"""A single environment that says its number when something goes wrong in it."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.envs.mujoco import MujocoEnv

from trpo_cli.envs.declared import Declared
from trpo_cli.envs.failure import raised
from trpo_cli.envs.mujoco.stability import WARNINGS, unstable
from trpo_cli.envs.snapshot import seed_spaces


class Watched(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Environment number `index` of several. `reset`, `step` and `close` raise a `Failure` and nothing else.

    What it returns is as declared, and infos, which nobody reads, are left out.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], index: int) -> None:
        super().__init__(env)
        self.index, self.declared = index, Declared(env.observation_space, index)
        self.simulator: Any = env.unwrapped if isinstance(env.unwrapped, MujocoEnv) else None

    def reset(self, *, seed: int | None = None, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        try:
            if seed is not None:
                seed_spaces(self.env, seed)
            returned = self.env.reset(seed=seed, **kwargs)
        except BaseException as error:
            raise self.declared.unpacked(error) or raised(self.index, error, " in a reset") from error
        return self.declared.reset(returned), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        try:
            returned = self.env.step(action)
        except BaseException as error:
            raise self.declared.unpacked(error) or raised(self.index, error) from error
        if self.simulator is not None and (counts := self.simulator.data.warning.number[WARNINGS]).any():
            raise unstable(self.index, counts)
        return self.declared.step(returned)

    def close(self) -> None:
        try:
            self.env.close()
        except BaseException as error:
            raise raised(self.index, error, " in a close") from error
