"""Random pixels, as a plugin registers them."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Pictures(gymnasium.Env[Any, Any]):
    """Shows random pixels for ten steps, and pays one for each."""

    observation_space = spaces.Box(0, 255, (4, 3), np.uint8)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = 10
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        return self._draw(), 1.0, self.left == 0, False, {}

    def _draw(self) -> Any:
        return self.np_random.integers(0, 256, (4, 3), dtype=np.uint8)


gymnasium.register("OldPictures-v0", Pictures)
