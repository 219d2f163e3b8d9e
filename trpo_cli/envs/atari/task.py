"""A game of Atari as a task: its rules from the id and the configuration, several games in each of a few processes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import gymnasium
from annotated_types import Ge, Le
from gymnasium.envs.registration import EnvSpec

from trpo_cli.envs.atari.names import PACKAGE
from trpo_cli.envs.atari.rules import Rules
from trpo_cli.envs.backend import Backend
from trpo_cli.envs.games import register_installed
from trpo_cli.envs.make import Maker, Task
from trpo_cli.envs.workers import Spaces
from trpo_cli.errors import ConfigError, counted, require_packages
from trpo_cli.ranges import UnitInterval

FRAME_SKIP = 4  # where neither the id nor the configuration has a range
LARGEST = 2**31 - 1  # number that the emulator takes
LONGEST = 108_000  # frames of a whole game, half an hour
KEYS = {"frameskip": "frame_skip"} | {name: name for name in ("repeat_action_probability", "full_action_space")}
"""Arguments of ale-py's environments that have a key of their own here."""
ARGUMENTS = {"mode", "difficulty", "max_num_frames_per_episode", "render_mode"}
"""The other arguments that games have here."""


@dataclass(frozen=True)
class Atari(Task):
    """A game that ale-py registers, with the preprocessing of the field (Mnih et al., 2015; Machado et al., 2018)."""

    grey: bool = True
    sign_reward: bool = True
    frame_skip: Annotated[int, Ge(1), Le(LONGEST)] | None = None  # None: the id's range, or 4
    noop_max: Annotated[int, Ge(0), Le(LONGEST)] = 30  # the most frames before an episode in which nothing is pressed
    fire: bool = True  # whether FIRE is pressed where a game waits for it
    repeat_action_probability: UnitInterval | None = None  # of a frame; None: that of the id
    life_loss_ends: bool = True  # whether a lost life ends an episode for the learner
    full_action_space: bool = False

    def native_obstacle(self, env: gymnasium.Env[Any, Any]) -> str | None:
        """Return which argument the games here do not have; all others run natively, whatever wrappers they have."""
        if others := self._foreign_arguments():
            return f"env.kwargs.{others[0]} is for ale-py's own environment, without no-ops, FIRE and lives"
        return "render_mode=rgb_array" if env.render_mode is not None else None

    def describe_rules(self) -> str:
        """Say how many frames a step has, and whether actions are sticky, which an id alone may decide."""
        if self._foreign_arguments():
            return ""
        rules = self._read_rules(self.find_spec())
        skip, sticky = rules.frame_skip, rules.repeat_action_probability
        frames = counted(skip, "frame") if isinstance(skip, int) else f"{skip[0]} to {rules.most_frames} frames"
        actions = f"each of which repeats the action of the last with probability {sticky:g}"
        return f"a step is {frames}, {actions if sticky else 'without sticky actions'}"

    def plan_native(self, spaces: Spaces, num_threads: int) -> tuple[str, Maker]:
        """Play all games in this process, or share them out among worker processes."""
        if num_threads == 1:
            return "games in turn", functools.partial(self.make_in_turn, spaces)
        how = f"games in turn in each of {counted(num_threads, 'worker process')}"
        return how, functools.partial(self._make_groups, spaces, num_threads)

    def _make_groups(self, spaces: Spaces, count: int, seeds: Sequence[int]) -> Backend:
        return self.make_workers(spaces, min(count, len(seeds)), seeds)

    def _make_bare(self, spec: EnvSpec | None) -> gymnasium.Env[Any, Any]:
        self._refuse_doubled_arguments()
        spec = spec or self.find_spec()
        if not str(spec.entry_point).startswith(f"{PACKAGE}."):
            raise ConfigError(f"env.id: {self.id} is no game of Atari; a run of it begins with env={self.id}")
        if self._foreign_arguments():
            register_installed()  # before ale-py prints its name, in a worker process, too
            return super()._make_bare(self._with_own_keys(spec))
        require_packages(f"env.id: {self.id}", "atari", PACKAGE, "cv2")
        from trpo_cli.envs.atari.game import Game

        return Game(self._read_rules(spec), spec, self.kwargs.get("render_mode"))

    def _foreign_arguments(self) -> list[str]:
        return [name for name in self.kwargs if name not in ARGUMENTS]

    def _refuse_doubled_arguments(self) -> None:
        if "game" in self.kwargs:
            raise ConfigError(
                f"env.kwargs.game: {self.id} is a game already; another id, as in env=ALE/Breakout-v5, is another"
            )
        for name in self.kwargs.keys() & KEYS.keys():
            raise ConfigError(f"env.kwargs.{name}: write env.{KEYS[name]}={self.kwargs[name]}")

    def _with_own_keys(self, spec: EnvSpec) -> EnvSpec:
        """The spec with what `gymnasium.make` is to use instead of the arguments in it."""
        given = {"frameskip": self.frame_skip, "repeat_action_probability": self.repeat_action_probability}
        given = {name: value for name, value in given.items() if value is not None}
        return EnvSpec(
            spec.id, spec.entry_point, kwargs={**spec.kwargs, **given, "full_action_space": self.full_action_space}
        )

    def _read_rules(self, spec: EnvSpec) -> Rules:
        """Read the rules of a game. Raises `ConfigError` for arguments of a wrong type."""
        given, own = {**spec.kwargs, **self.kwargs}, self.repeat_action_probability
        for name in ("mode", "difficulty", "max_num_frames_per_episode"):
            value = given.get(name)
            if value is not None and (type(value) is not int or not 0 <= value <= LARGEST):
                raise ConfigError(
                    f"env.kwargs.{name}: got {value!r}; it should be a whole number from 0 to {LARGEST:,}"
                )
        if given.get("render_mode") not in (None, "rgb_array"):
            raise ConfigError(f"env.kwargs.render_mode: got {given['render_mode']!r}; it should be rgb_array or null")
        skip = given["frameskip"]
        return Rules(
            game=given["game"],
            frame_skip=self.frame_skip or (FRAME_SKIP if isinstance(skip, int) else tuple(skip)),
            repeat_action_probability=given["repeat_action_probability"] if own is None else own,
            noop_max=self.noop_max,
            fire=self.fire,
            life_loss_ends=self.life_loss_ends,
            full_action_space=self.full_action_space,
            grey=self.grey,
            resize=(self.resize[0], self.resize[1]) if self.resize else None,
            max_frames=given["max_num_frames_per_episode"] or 0,
            max_episode_steps=self.max_episode_steps,
            mode=given.get("mode"),
            difficulty=given.get("difficulty"),
        )
