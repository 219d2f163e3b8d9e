"""One game on the emulator, frame by frame: sticky actions, the last two frames as pictures, and exact snapshots."""

from __future__ import annotations

import re
import struct
from typing import Any

import ale_py
import cv2
import numpy as np
from ale_py import roms
from numpy.typing import NDArray

from trpo_cli.envs.atari.rules import Rules
from trpo_cli.errors import CheckpointError, ConfigError

Picture = NDArray[np.uint8]
NOOP, FIRE = ale_py.Action.NOOP, ale_py.Action.FIRE
ACTIONS = [ale_py.Action(code) for code in range(18)]  # of a joystick with one button
SETTLED = 2  # frames after which a snapshot is exact; before (in Q*bert), only one from before the reset is
HEADER = slice(28, 64)  # of a serialised state: the MD5 sum of the cartridge, after four counts of frames
PARTS = (b"System", b"M6502Low", b"M6532", b"TIA", b"TIASound", b"Cartridge")  # of a serialised state, in this order
GENERATOR = re.compile(rb"\d{1,10}( \d{1,10}){623,624} ?")  # the words of a Mersenne Twister, and its place in them
BANK, SLICE = 4096, 1024  # bytes that a cartridge shows at a time; CartridgeE0 shows slices

ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # otherwise it prints its name and version


class Console:
    """A console with a game in it.

    Sticky actions (Machado et al., 2018, section 5) are drawn here instead of in the emulator, whose snapshots do not
    hold its own generator. Games do not depend on the seed of the emulator.
    """

    def __init__(self, rules: Rules, colour: bool) -> None:
        """Insert the cartridge. With `colour`, frames are kept in colour, too, for `draw`.

        Raises `ConfigError` if the game has no such mode or difficulty.
        """
        ale = self._ale = ale_py.ALEInterface()
        ale.setFloat("repeat_action_probability", 0.0)
        ale.setInt("random_seed", 0)
        ale.setInt("max_num_frames_per_episode", rules.max_frames)
        path: Any = roms.get_rom_path(rules.game)
        ale.loadROM(path)
        for name, value, known, choose in (
            ("mode", rules.mode, ale.getAvailableModes(), ale.setMode),
            ("difficulty", rules.difficulty, ale.getAvailableDifficulties(), ale.setDifficulty),
        ):
            if value is not None and value not in known:
                there = ", ".join(map(str, known))
                raise ConfigError(f"env.kwargs.{name}: got {value}; {rules.game} has: {there}")
            if value is not None:
                choose(value)
        self._held, self._played = NOOP, 0  # the action of the last frame; frames of this game, counted up to SETTLED
        self._sticks, self._skips = rules.repeat_action_probability, rules.most_frames > 1
        self.actions = ale.getLegalActionSet() if rules.full_action_space else ale.getMinimalActionSet()
        height, width = ale.getScreenDims()
        self._read = ale.getScreenGrayscale if rules.grey else ale.getScreenRGB
        planes = () if rules.grey else (3,)
        self._screens = np.zeros((2, height, width, *planes), dtype=np.uint8)
        self._colours = np.zeros((2, height, width, 3), dtype=np.uint8) if colour else None
        self._size = tuple(rules.resize or (height, width))
        self._picture = np.zeros((*self._size, *planes), dtype=np.uint8)
        self._new = self._before = ale.cloneState()  # the console as it was switched on, and before the last reset
        self._layout = Layout(self._new.serialize(), path.stat().st_size)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a picture: (H, W), or (H, W, 3) in colour."""
        return tuple(self._picture.shape)

    @property
    def lives(self) -> int:
        return int(self._ale.lives())

    @property
    def is_over(self) -> bool:
        return bool(self._ale.game_over(with_truncation=False))

    @property
    def is_cut_off(self) -> bool:
        """Whether the game has taken as many frames as it may."""
        return bool(self._ale.game_truncated())

    @property
    def frames(self) -> int:
        """Frames since the reset, without those in which the game boots."""
        return int(self._ale.getEpisodeFrameNumber())

    def switch_on(self) -> None:
        """Forget everything: in some games, the next one depends on the last one otherwise."""
        self._ale.restoreState(self._new)

    def reset(self) -> None:
        """Begin a new game."""
        self._before = self._ale.cloneState()
        self._ale.reset_game()
        self._held, self._played = NOOP, 0

    def look(self) -> None:
        """Take a picture of the present frame alone."""
        self._keep(0)
        self._screens[1] = 0
        if self._colours is not None:
            self._colours[1] = 0

    def hold(self, action: Any, frames: int, generator: np.random.Generator) -> float:
        """Hold an action for so many frames, or until the game ends; return the sum of its rewards.

        The picture has the maximum of the last two frames of each pixel, since games show some things in every second
        frame only (Mnih et al., 2015). Where the game ends before these, it is that of Gymnasium's AtariPreprocessing.
        """
        act, is_over, reward = self._ale.act, self._ale.game_over, 0
        sticks = generator.random(frames) < self._sticks if self._sticks else None
        self._played = min(self._played + frames, SETTLED)
        for frame in range(frames):
            if sticks is None or not sticks[frame]:
                self._held = action
            reward += act(self._held)
            if is_over():
                break
            if (left := frames - 1 - frame) < 2:
                self._keep(left)
        return float(reward)

    def take_picture(self) -> Picture:
        """Return the picture (H, W), which the next one overwrites."""
        first, second = self._screens
        if self._skips:
            np.maximum(first, second, out=first)
        height, width = self._size
        cv2.resize(first, (width, height), dst=self._picture, interpolation=cv2.INTER_AREA)
        return self._picture

    def draw(self) -> Picture:
        """Return the last two frames in colour, at full resolution (H, W, 3)."""
        assert self._colours is not None
        drawn: Picture = self._colours.max(0)
        return drawn

    def save(self) -> dict[str, Any]:
        """Return the whole state as plain data."""
        state = self._before if self._played < SETTLED else self._ale.cloneState()
        return {
            "emulator": np.frombuffer(state.serialize(), dtype=np.uint8),
            "played": self._played,
            "held": int(self._held.value),
            "screen": self._screens[0].copy(),  # the second is overwritten before it is read, or shows nothing more
        }

    def restore(self, state: Any) -> None:
        """Restore what `save` returned. Raises `CheckpointError`, before the emulator reads it, if it does not fit."""
        self._check(state)
        emulator = self._load_emulator(state["emulator"].tobytes())
        held, played = ACTIONS[state["held"]], state["played"]
        if played < SETTLED:
            self._before = emulator
            self._ale.reset_game()
            for _ in range(played):
                self._ale.act(held)
        self._held, self._played = held, played
        self._screens[0], self._screens[1] = state["screen"], 0

    def _check(self, state: Any) -> None:
        """Raise `CheckpointError` unless `save` could have returned `state`, as far as one sees from outside."""
        if type(state) is not dict or state.keys() != {"emulator", "played", "held", "screen"}:
            raise CheckpointError("the state of a game is missing")
        screen, data, held = state["screen"], state["emulator"], state["held"]
        own = self._screens[0]
        if type(screen) is not np.ndarray or screen.shape != own.shape or screen.dtype != own.dtype:
            raise CheckpointError(f"the screen of a game is no array of shape {own.shape}")
        if type(data) is not np.ndarray or data.ndim != 1 or data.dtype != np.uint8:
            raise CheckpointError("the state of an emulator is not a row of bytes")
        if type(state["played"]) is not int or not 0 <= state["played"] <= SETTLED:
            raise CheckpointError(f"a game has not begun {state['played']!r} frames ago")
        if type(held) is not int or not 0 <= held < len(ACTIONS):
            raise CheckpointError(f"a game has no action {held!r}")

    def _load_emulator(self, data: bytes) -> ale_py.ALEState:
        """Put the emulator into a state, and return that. Raises `CheckpointError` if these bytes are none."""
        self._layout.check(data)
        if not self._played:
            self._ale.act(NOOP)  # before the first frame of a game, Q*bert again, a restore is not exact either
        try:
            state = ale_py.ALEState(data)
            self._ale.restoreState(state)
        except Exception as error:  # it reads words and numbers out of the bytes
            raise CheckpointError(f"the emulator cannot read a state: {type(error).__name__}") from error
        return state

    def _keep(self, place: int) -> None:
        self._read(self._screens[place])
        if self._colours is not None:
            self._ale.getScreenRGB(self._colours[place])


class Layout:
    """Where the parts of an emulator's serialised state lie, which depends on the cartridge only.

    Only its generator, whose state is written as text, has a length of its own. The emulator reads a state without
    checking it, and a bank that its cartridge does not have would crash it.
    """

    def __init__(self, data: bytes, size: int) -> None:
        """`data` is any state of the cartridge, which has `size` bytes."""
        self._header, self._places = data[HEADER], []
        end = HEADER.stop
        for name in PARTS:
            start = data.index(name, end)
            end = start + _number(data, start - 4)  # the length of a name comes before it
            self._places.append((start - 4, data[start - 4 : end]))
            if name == PARTS[0]:
                self._generator = end + 4  # after a count of cycles: the length of the text, and the text
        self._text = _number(data, self._generator)
        # Of everything, and of what the header announces, but for the text.
        self._lengths = len(data) - self._text, _number(data, HEADER.start - 4) - self._text
        slices = data[start:end] == b"CartridgeE0"
        self._banks = size // (SLICE if slices else BANK)
        self._numbers = struct.Struct("<5i" if slices else "<i"), end  # the number of slices comes before them

    def check(self, data: bytes) -> None:
        """Raise `CheckpointError` unless these bytes have the same layout."""
        text, begin = _number(data, self._generator), self._generator + 4
        shift = text - self._text  # of what lies behind the text
        places = [(place + (shift if place >= begin else 0), name) for place, name in self._places]
        lengths = len(data) - text, _number(data, HEADER.start - 4) - text
        fits = lengths == self._lengths and data[HEADER] == self._header
        if (
            not fits
            or not GENERATOR.fullmatch(data[begin : begin + text])
            or any(data[place : place + len(name)] != name for place, name in places)
        ):
            raise CheckpointError("the state of an emulator is that of another game, or damaged")
        words, start = self._numbers
        if self._banks > 1 and not all(0 <= one < self._banks for one in words.unpack_from(data, start + shift)):
            raise CheckpointError("the state of an emulator shows a bank that its cartridge does not have")


def _number(data: bytes, place: int) -> int:
    return int.from_bytes(data[place : place + 4], "little")
