"""Tiny environments that each isolate one failure of a learner, and a few that misbehave.

Importing this module registers them: `plugins=[probes] env=gym env.id=Probe/NAME-v0`.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections import deque
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import Env, spaces

from trpo_cli.envs.random_mdp import RandomMDP


class Probe(Env[Any, Any]):
    """One observation in [-1, 1], drawn anew each episode; an episode of one step unless said otherwise."""

    observation_space: spaces.Space[Any] = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space: spaces.Space[Any] = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.sign = float(self.np_random.choice([-1.0, 1.0]))
        self.time = 0
        return self.observe(), {}

    def observe(self) -> Any:
        return np.array([self.sign], dtype=np.float32)

    def reward(self, action: Any) -> float:
        raise NotImplementedError

    def ends(self) -> tuple[bool, bool]:
        """Terminated, truncated; asked after `time` was advanced."""
        return True, False

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = self.reward(action)
        self.time += 1
        return self.observe(), reward, *self.ends(), {}


class Constant(Probe):
    """Reward 1: V = 1."""

    def reward(self, action: Any) -> float:
        return 1.0


class Observation(Probe):
    """The reward is the observation: V(s) = s."""

    def reward(self, action: Any) -> float:
        return self.sign


class TwoSteps(Probe):
    """Observation 0, then 1; reward 1 at the end: V(0) = gamma, V(1) = 1."""

    def observe(self) -> Any:
        return np.array([min(self.time, 1)], dtype=np.float32)

    def reward(self, action: Any) -> float:
        return float(self.time == 1)

    def ends(self) -> tuple[bool, bool]:
        return self.time == 2, False


class TimeLimit(Probe):
    """Reward 1 for ever, cut off after 3 steps: V = 1 / (1 - gamma), if and only if time limits bootstrap."""

    def observe(self) -> Any:
        return np.zeros(1, dtype=np.float32)

    def reward(self, action: Any) -> float:
        return 1.0

    def ends(self) -> tuple[bool, bool]:
        return False, self.time == 3


class Action(Probe):
    """Reward 1 for action 1, else 0."""

    def reward(self, action: Any) -> float:
        return float(action)


class Match(Probe):
    """Reward 1 if the action is 1 exactly when the observation is positive, else 0."""

    def reward(self, action: Any) -> float:
        return float((action == 1) == (self.sign > 0))


class Bar(Probe):
    """Reward 1 for telling whether a bright bar stands or lies in a picture of noise, wherever it is."""

    observation_space = spaces.Box(0, 255, (12, 12), np.uint8)

    def observe(self) -> Any:
        picture = self.np_random.integers(0, 100, (12, 12), dtype=np.uint8)
        row, column = self.np_random.integers((9, 12))
        (picture if self.sign > 0 else picture.T)[row : row + 4, column] = 255
        return picture

    def reward(self, action: Any) -> float:
        return float((action == 1) == (self.sign > 0))


class Recall(Probe):
    """Shows the sign first, and zeros after that; after `k` steps, reward 1 for the action that matches it."""

    def __init__(self, k: int = 5) -> None:
        self.k = k

    def observe(self) -> Any:
        return np.array([self.sign if self.time == 0 else 0.0], dtype=np.float32)

    def reward(self, action: Any) -> float:
        return float(self.time == self.k and (action == 1) == (self.sign > 0))

    def ends(self) -> tuple[bool, bool]:
        return self.time > self.k, False


class Leak(Probe):
    """Reward 1 for an action that matches the sign which the episode before has shown at its end."""

    sign = 1.0

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        self.before = self.sign
        return super().reset(**options)

    def observe(self) -> Any:
        return np.array([self.sign if self.time == 1 else 0.0], dtype=np.float32)

    def reward(self, action: Any) -> float:
        return float(self.time == 0 and (action == 1) == (self.before > 0))

    def ends(self) -> tuple[bool, bool]:
        return self.time == 2, False


class Continuous(Probe):
    """Reward -(a - s / 2)^2 for each of two actions."""

    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reward(self, action: Any) -> float:
        return -float(np.square(action - self.sign / 2).sum())


class Wide(Probe):
    """Reward -|a - 800| / 800 for an action from 0 to 1000."""

    action_space = spaces.Box(0.0, 1000.0, (1,), np.float32)

    def reward(self, action: Any) -> float:
        return -abs(float(action[0]) - 800) / 800


class Multi(Probe):
    """Two factors, of 3 and 2 actions counted from 1 and 0: half a reward for each that matches the observation."""

    action_space = spaces.MultiDiscrete([3, 2], start=[1, 0])

    def reward(self, action: Any) -> float:
        wanted = (3, 1) if self.sign > 0 else (1, 0)
        return 0.5 * (action[0] == wanted[0]) + 0.5 * (action[1] == wanted[1])


class Binary(Probe):
    """Three switches, a third of a reward for each that is on exactly when the observation is positive."""

    action_space = spaces.MultiBinary(3)

    def reward(self, action: Any) -> float:
        return float(np.mean((action == 1) == (self.sign > 0)))


class States(Probe):
    """Discrete observations, counted from 1: reward 1 if the action names the state."""

    observation_space = spaces.Discrete(2, start=1)

    def observe(self) -> Any:
        return np.int64(2 if self.sign > 0 else 1)

    def reward(self, action: Any) -> float:
        return float(action + 1 == self.observe())


class Several(Probe):
    """An observation of every kind. Reward 1 if the action is 1 exactly when two of its entries have the same sign.

    The signs are drawn anew each step, and an episode has five.
    """

    observation_space = spaces.Dict(
        {
            "number": spaces.Box(-100.0, 100.0, (1,), np.float64),
            "choice": spaces.Discrete(2, start=3),
            "inner": spaces.Tuple((spaces.MultiBinary([2, 1]), spaces.MultiDiscrete([2, 3], start=[1, 0]))),
            "image": spaces.Box(0, 255, (2, 2, 1), np.uint8),
        }
    )

    def observe(self) -> Any:
        self.signs = self.np_random.integers(2, size=2)
        return {
            "number": np.array([50.0 * (2 * self.signs[0] - 1)]),
            "choice": 3 + self.signs[1],
            "inner": (self.np_random.integers(2, size=(2, 1), dtype=np.int8), np.array([1, self.time % 3])),
            "image": self.np_random.integers(256, size=(2, 2, 1), dtype=np.uint8),
        }

    def reward(self, action: Any) -> float:
        return float((action == 1) == (self.signs[0] == self.signs[1]))

    def ends(self) -> tuple[bool, bool]:
        return False, self.time == 5

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        *others, _ = super().step(action)
        return (*others, {"agreed": others[1]})  # type: ignore[return-value]


class Swapped(Probe):
    """A pair whose second number is wrong from the third step on; no episode ends."""

    observation_space = spaces.Tuple((spaces.Discrete(3), spaces.Discrete(2)))

    def observe(self) -> Any:
        return 0, max(0, self.time - 1)

    def reward(self, action: Any) -> float:
        return 0.0

    def ends(self) -> tuple[bool, bool]:
        return False, False


class Faulty(Probe):
    """Well for `after` steps, then `fault`: a bad reward or observation, or an exception."""

    def __init__(self, fault: str, after: int = 50) -> None:
        self.fault, self.after, self.steps = fault, after, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        if self.fault == "reset" and self.steps > self.after:
            raise Unsendable(self)
        return super().reset(seed=seed)

    def observe(self) -> Any:
        bad = self.fault == "observation" and self.steps > self.after
        return np.array([np.inf if bad else self.sign], dtype=np.float32)

    def reward(self, action: Any) -> float:
        self.steps += 1
        if self.fault == "raise" and self.steps > self.after:
            raise RuntimeError("the simulator fell over")
        bad = {"reward": float("nan"), "huge reward": 1e39}
        return bad.get(self.fault, 1.0) if self.steps > self.after else 1.0


class Unsendable(Exception):
    """No other process can be told of it as it is."""

    def __init__(self, env: Env[Any, Any]) -> None:
        super().__init__(lambda: env)

    def __str__(self) -> str:
        return "the door is stuck"


class Drawing(Probe):
    """Draws its rewards from whatever can be drawn from, and keeps what a step brought into being; 20 steps long."""

    def __init__(self) -> None:
        self.action_space = spaces.Discrete(2)
        self.urn = spaces.Dict({"a": spaces.Discrete(99), "b": spaces.Tuple((spaces.Box(0.0, 1.0, (2,)),))})
        self.trail: list[Any] = []
        self.dice, self.old = random.Random(1), np.random.RandomState(1)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.urn.seed(seed)
            self.action_space.seed(seed)
            self.dice.seed(seed)
            self.old.seed(seed)
        return super().reset(seed=seed)

    def reward(self, action: Any) -> float:
        draw = self.urn.sample()
        self.last = action, getattr(self, "last", None) is None
        self.trail.append(float(draw["a"] + draw["b"][0].sum()))
        drawn = self.dice.gauss(0, 1), self.old.normal(), self.np_random.normal(), self.action_space.sample()
        return sum(self.trail[-3:]) + float(sum(drawn))

    def ends(self) -> tuple[bool, bool]:
        return False, self.time == 20


class Once(Probe):
    """The first to take `after` steps, of all that share the file `marker`, goes wrong; none after it does."""

    def __init__(self, fault: str, marker: str, after: int = 40) -> None:
        self.fault, self.marker, self.after, self.steps = fault, marker, after, 0

    def reward(self, action: Any) -> float:
        self.steps += 1
        if self.steps < self.after or Path(self.marker).exists():
            return float(action)
        Path(self.marker).touch()
        match self.fault:
            case "raise":
                raise RuntimeError("the simulator fell over")
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                time.sleep(1000)
        return float(self.fault)  # nan, inf and the like


class Opaque(Probe):
    """After so many steps it keeps what nobody can save."""

    def __init__(self, after: int = 0) -> None:
        self.after, self.steps = after, 0
        if after < 0:
            self.secret = object()

    def reward(self, action: Any) -> float:
        self.steps += 1
        if self.steps > self.after:
            self.secret = object()
        return float(action)


class Careless(Probe):
    """Returns whatever it was told to, instead of what it should; 3 steps long."""

    def __init__(self, space: spaces.Space[Any] | None = None, **returns: Any) -> None:
        self.observation_space = space or self.observation_space
        self.returns = returns

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        observation, info = super().reset(seed=seed)
        return self.returns.get("reset", (observation, self.returns.get("info", info)))

    def observe(self) -> Any:
        return self.returns.get("observation", super().observe())

    def step(self, action: Any) -> Any:
        self.time += 1
        should: dict[str, Any] = {"observation": self.observe(), "reward": 1.0, "terminated": False}
        should |= {"truncated": self.time == 3, "info": {}}
        return self.returns.get("step", tuple(self.returns.get(name, value) for name, value in should.items()))


class Disconnected(Probe):
    """Cannot tell what it shows."""

    @property
    def observation_space(self) -> Any:  # type: ignore[override]
        raise ValueError("not connected")


class Leaving(Probe):
    """Goes away for good: `how` and `when`, in which of its methods."""

    def __init__(self, when: str, how: str) -> None:
        self.when, self.how = when, how
        self.leave("make")

    def leave(self, now: str) -> None:
        if now != self.when:
            return
        if self.how == "hang":
            time.sleep(1000)
        raise {"exit": SystemExit(3), "quit": SystemExit(), "raise": RuntimeError("not connected")}[self.how]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.leave("reset")
        return super().reset(seed=seed)

    def reward(self, action: Any) -> float:
        self.leave("step")
        return 1.0

    def close(self) -> None:
        self.leave("close")


class Single(Probe):
    """As many at a time as there are `seats`, each taken by a file in a folder until it is closed; 5 steps long."""

    def __init__(self, folder: str, seats: int = 1) -> None:
        free = (Path(folder) / str(seat) for seat in range(seats))
        self.seat = str(next((seat for seat in free if not seat.exists()), None))
        if self.seat == "None":
            raise ConnectionError("every seat is taken")
        Path(self.seat).touch()

    def reward(self, action: Any) -> float:
        return 1.0

    def ends(self) -> tuple[bool, bool]:
        return False, self.time == 5

    def close(self) -> None:
        Path(self.seat).unlink(missing_ok=True)


class Fickle(Probe):
    """Says each time it is made that it has another space."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-1.0, random.SystemRandom().uniform(1.0, 9.0), (1,), np.float32)

    def reward(self, action: Any) -> float:
        return 1.0


class Spaceless(Env[Any, Any]):
    """Declares nothing."""


class Helped(Probe):
    """Has a process of its own, whose number is its reward; every step but the first takes `seconds`."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.helper = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
        self.helper.start()

    def reward(self, action: Any) -> float:
        time.sleep(self.seconds if self.time else 0.0)
        return float(self.helper.pid or 0)

    def ends(self) -> tuple[bool, bool]:
        return False, False

    def close(self) -> None:
        self.helper.kill()
        self.helper.join()


class Slow(Probe):
    """A step that takes `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def reward(self, action: Any) -> float:
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            pass
        return 1.0


class Coin(RandomMDP):
    """One step, from one of two states alike: a coin pays 5 or costs 5, and the second action pays 1 on top."""

    def __init__(self) -> None:
        super().__init__(num_states=2, num_actions=2, branching=1)
        self.P = {
            state: {a: [(0.5, 0, a + 5.0, True), (0.5, 0, a - 5.0, True)] for a in range(2)} for state in range(2)
        }


class Silent(Probe):
    """Reward 0 always: nothing to learn from."""

    def reward(self, action: Any) -> float:
        return 0.0


class Wandering(Probe):
    """Goes to the root of the file system when it is reset."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        os.chdir("/")
        return super().reset(seed=seed, options=options)

    def reward(self, action: Any) -> float:
        return 0.0


class Mission(Probe):
    """Observations with an entry of a kind that is not supported."""

    observation_space = spaces.Dict({"a": spaces.Discrete(2), "inner": spaces.Dict({"mission": spaces.Text(5)})})


class Words(Probe):
    """Actions of a kind that is not supported."""

    action_space = spaces.Text(5)


class Painted(Probe):
    """Ten steps, of which each is shown in a lighter grey; `broken` ones cannot be drawn."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None, broken: bool = False) -> None:
        self.render_mode, self.broken = render_mode, broken

    def reward(self, action: Any) -> float:
        return self.sign * (1 + action)

    def ends(self) -> tuple[bool, bool]:
        return self.time == 10, False

    def render(self) -> Any:
        if self.broken:
            raise RuntimeError("no paint")
        return np.full((32, 48, 3), 20 * self.time, np.uint8)


class Chance(Probe):
    """Five steps; draws from the generators that all code of a process shares, already as it is made."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode, self.offset = render_mode, np.random.uniform(-0.5, 0.5)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.place = random.uniform(-0.5, 0.5)
        return super().reset(seed=seed)

    def observe(self) -> Any:
        return np.array([self.offset + self.place], dtype=np.float32)

    def reward(self, action: Any) -> float:
        self.place = random.uniform(-0.5, 0.5)
        return float(action + np.random.normal() + torch.randn(()))

    def ends(self) -> tuple[bool, bool]:
        return False, self.time == 5

    def render(self) -> Any:
        return np.full((32, 48, 3), int(100 + 100 * self.place), np.uint8)


class Remembering(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Pays `scale` times the last `k` rewards on top."""

    def __init__(self, env: Env[Any, Any], k: int = 2, *, scale: float = 1.0) -> None:
        super().__init__(env)
        self.scale, self.last = scale, deque([0.0], maxlen=k)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.last.append(float(reward))
        return observation, float(reward) + self.scale * sum(self.last), terminated, truncated, info


class Nothing(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Makes no environment."""

    def __new__(cls, env: Env[Any, Any]) -> Any:
        return 5


class Told(Probe):
    """Two to six steps, with infos of every kind; `kind` replaces a number by something else."""

    def __init__(self, kind: str = "number") -> None:
        self.kind = kind

    def reward(self, action: Any) -> float:
        return self.sign * (1 + action)

    def ends(self) -> tuple[bool, bool]:
        return False, self.time >= (2 if self.sign < 0 else 6)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        *others, _ = super().step(action)
        info: dict[str, Any] = {"is_success": self.sign > 0, "time": np.array([self.time]), "episode": {"r": 0.5}}
        info |= {"legal": np.arange(self.time), "ragged": [[1], [2, 3]], "undefined": np.nan, "nothing": None}
        if self.sign > 0:
            info["bonus"] = np.float32(self.time)
        return (*others, info if self.kind == "number" else [])  # type: ignore[return-value]


gymnasium.register("Probe/WideRescaled-v0", entry_point=lambda: gymnasium.wrappers.RescaleAction(Wide(), -1, 1))
for probe in (*Probe.__subclasses__(), Coin, Spaceless):
    gymnasium.register(f"Probe/{probe.__name__}-v0", entry_point=probe)
