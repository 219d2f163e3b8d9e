"""Random pixels of any shape, in episodes of random lengths: `plugins=[screens] env=Screens-v0`."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Screens(gymnasium.Env[Any, Any]):
    """Pays the action that is chosen; each step is the last with a chance of one in eight."""

    def __init__(self, shape: tuple[int, ...] = (84, 84), dtype: str = "uint8") -> None:
        self.observation_space = spaces.Box(0, 255 if dtype == "uint8" else 1, tuple(shape), np.dtype(dtype).type)
        self.action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self._draw(), float(action), bool(self.np_random.integers(8) == 0), False, {}

    def _draw(self) -> Any:
        space = self.observation_space
        high = 2 if space.dtype == np.bool_ else 256
        return self.np_random.integers(0, high, space.shape, dtype=np.uint8).astype(space.dtype)


gymnasium.register("Screens-v0", Screens)
