"""A wrapper that checks a single environment and reports its number when something goes wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
from gymnasium.envs.mujoco import MujocoEnv

from trpo_cli.envs.contract import Contract
from trpo_cli.envs.failure import as_failure
from trpo_cli.envs.infos import Numbers, read_numbers
from trpo_cli.envs.joining import join
from trpo_cli.envs.mujoco.stability import WARNINGS, instability
from trpo_cli.envs.snapshot import seed_spaces


class Watched(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Environment number `index` of several. `reset`, `step` and `close` raise nothing but `Failure`.

    What they return matches the declared spaces, with composite observations joined, and without infos; `read_numbers`
    reads those of the last step.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], index: int) -> None:
        super().__init__(env)
        self.index, self.contract = index, Contract(join(env.observation_space), index)
        self.simulator: Any = env.unwrapped if isinstance(env.unwrapped, MujocoEnv) else None

    @property  # type: ignore[misc]
    def observation_space(self) -> Any:  # type: ignore[override]
        return self.contract.space

    def reset(self, *, seed: int | None = None, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        try:
            if seed is not None:
                seed_spaces(self.env, seed)
            returned = self.env.reset(seed=seed, **kwargs)
        except BaseException as error:
            raise self.contract.explain_unpacking(error) or as_failure(self.index, error, " in a reset") from error
        return self.contract.check_reset(returned), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        try:
            returned = self.env.step(action)
        except BaseException as error:
            raise self.contract.explain_unpacking(error) or as_failure(self.index, error) from error
        if self.simulator is not None and (counts := self.simulator.data.warning.number[WARNINGS]).any():
            raise instability(self.index, counts)
        return self.contract.check_step(returned)

    def read_numbers(self, names: Sequence[str]) -> Numbers:
        """The numbers called `names` in the info of the last step."""
        return read_numbers(self.contract.info, names, self.index)

    def close(self) -> None:
        try:
            self.env.close()
        except BaseException as error:
            raise as_failure(self.index, error, " in a close") from error
