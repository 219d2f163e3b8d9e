"""A game of Atari as an environment: steps of several frames, no-op starts, FIRE, and lost lives."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import seeding

from trpo_cli.envs.atari.console import FIRE, NOOP, Console, Picture
from trpo_cli.envs.atari.rules import Rules

FRAME_RATE = 60  # of the console
Returned = tuple[Picture, float, bool, bool, dict[str, Any]]


class Game(gymnasium.Env[Any, Any]):
    """Observations (H, W), `uint8`, and no-op starts are those of Gymnasium's `AtariPreprocessing`, bit for bit.

    They are overwritten by the next step. Rewards and ends are those of the whole game; `life_lost` says whether the
    last step cost a life that ends an episode for the learner.
    """

    def __init__(self, rules: Rules, spec: EnvSpec, render_mode: str | None = None) -> None:
        """Raises `ConfigError` as `Console` does."""
        self.rules, self.spec, self.render_mode = rules, spec, render_mode
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": round(FRAME_RATE / rules.most_frames)}
        self._console = Console(rules, colour=render_mode is not None)
        self._actions = list(self._console.actions)
        self._fires = rules.fire and self._actions[1:2] == [FIRE]
        self.observation_space = spaces.Box(0, 255, self._console.shape, np.uint8)
        self.action_space = spaces.Discrete(len(self._actions))
        self.life_lost, self._lives, self._steps = False, 0, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Picture, dict[str, Any]]:
        if seed is not None:  # as `AtariEnv` derives it
            derived = int(np.random.SeedSequence(seed).generate_state(2)[0])
            self._np_random, self._np_random_seed = seeding.np_random(derived)
            self._console.switch_on()
        console, generator = self._console, self.np_random
        console.reset()
        for _ in range(generator.integers(1, self.rules.noop_max + 1) if self.rules.noop_max else 0):
            console.hold(NOOP, 1, generator)
            if console.is_over or console.is_cut_off:
                console.reset()
        if self._fires:
            self._hold(FIRE)
        else:
            console.look()
        self.life_lost, self._lives, self._steps = False, console.lives, 0
        return console.take_picture(), self._info()

    def step(self, action: int) -> Returned:
        console, self._steps = self._console, self._steps + 1
        reward, lives = self._hold(self._actions[action]), console.lives
        is_lost = 0 < lives < self._lives  # at 0 the game is over, in some games a few frames later
        if is_lost and self._fires:
            reward += self._hold(FIRE)
        self._lives, self.life_lost = lives, is_lost and self.rules.life_loss_ends
        is_cut_off = console.is_cut_off or self._steps == self.rules.max_episode_steps
        return console.take_picture(), reward, console.is_over, is_cut_off, self._info()

    def render(self) -> Any:
        """Draw the last two frames in colour, at full resolution (210, 160, 3)."""
        return self._console.draw()

    def clone_state(self) -> dict[str, Any]:
        """Return what is not an attribute of this environment: the state of the console, as plain data."""
        return self._console.save()

    def restore_state(self, state: Any) -> None:
        """Restore what `clone_state` returned. Raises `CheckpointError` if it does not fit."""
        self._console.restore(state)

    def _hold(self, action: Any) -> float:
        skip, generator = self.rules.frame_skip, self.np_random
        frames = skip if isinstance(skip, int) else int(generator.integers(*skip))
        return self._console.hold(action, frames, generator)

    def _info(self) -> dict[str, Any]:
        return {"lives": self._lives, "episode_frame_number": self._console.frames}
