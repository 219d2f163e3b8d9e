"""How a game of Atari is played and shown: what its id says, and what the configuration says instead."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rules:
    """Everything that two copies of a game have in common, as plain data."""

    game: str  # the name of its cartridge
    frame_skip: int | tuple[int, int]  # frames of a step, or the range [low, high) that they are drawn from
    repeat_action_probability: float  # that a frame repeats the action of the last one
    noop_max: int  # frames in which a game begins without an action, drawn from 1 to this; 0: none
    fire: bool  # whether FIRE is pressed for the player where a game waits for it
    life_loss_ends: bool  # whether a lost life ends an episode for the learner
    full_action_space: bool
    grey: bool
    resize: tuple[int, int] | None  # height and width; None: as the emulator shows it
    max_frames: int  # after which a game is cut off; 0: never
    max_episode_steps: int | None
    mode: int | None
    difficulty: int | None

    @property
    def most_frames(self) -> int:
        """The most frames of a step."""
        return self.frame_skip if isinstance(self.frame_skip, int) else self.frame_skip[1] - 1
