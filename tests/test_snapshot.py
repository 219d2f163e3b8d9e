"""Saved and restored environments against their own future: every bit of every step, through resets."""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from conftest import quiet_make
from exactness import exactly
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation, FrameStackObservation, NormalizeObservation, TimeLimit

from trpo_cli.envs.environments import Environments
from trpo_cli.envs.in_turn import InTurn
from trpo_cli.envs.make import Parallelism, Task
from trpo_cli.envs.mujoco import contact_forces
from trpo_cli.envs.mujoco.batch import MujocoBatch
from trpo_cli.envs.snapshot import obstacle, reseed, restore, save
from trpo_cli.errors import EnvironmentFault

STEPS = 220
CONTACTS = {"use_contact_forces": True}
NATIVE: list[tuple[str, dict[str, Any]]] = [
    ("Walker2d-v4", {}),
    ("Walker2d-v5", {}),
    ("Ant-v4", {}),
    ("Ant-v4", CONTACTS),
    ("Ant-v5", {}),
    ("Humanoid-v4", {}),
    ("Hopper-v4", {}),
    ("Swimmer-v4", {}),
    ("Reacher-v4", {}),
    ("InvertedDoublePendulum-v5", {}),
]
IN_TURN: list[tuple[str, dict[str, Any]]] = [
    ("Walker2d-v4", {}),
    ("Ant-v4", {}),
    ("Ant-v4", CONTACTS),
    ("Ant-v5", {}),
    ("Humanoid-v4", {}),
    ("CartPole-v1", {}),
    ("Acrobot-v1", {"max_episode_steps": 90}),
    ("MountainCar-v0", {}),
    ("MountainCarContinuous-v0", {"max_episode_steps": 90}),
    ("Pendulum-v1", {}),
    ("FrozenLake-v1", {"is_slippery": True}),
    ("Taxi-v4", {"is_rainy": True, "fickle_passenger": True}),
    ("CliffWalking-v1", {"is_slippery": True, "max_episode_steps": 90}),
    ("Blackjack-v1", {}),
]


def plain(value: Any) -> bool:
    """Whether it is of the few kinds that snapshots are made of."""
    if isinstance(value, dict):
        return type(value) is dict and all(map(plain, value)) and all(map(plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(plain, value))
    if type(value) is np.ndarray:
        return not value.dtype.hasobject
    return value is None or isinstance(value, bool | int | float | str | bytes | np.generic)


def actions(space: spaces.Space[Any], shape: tuple[int, ...], seed: int) -> Any:
    """Random actions (*shape, ...)."""
    rng = np.random.default_rng(seed)
    if isinstance(space, spaces.Box):
        return rng.uniform(space.low, space.high, (*shape, *space.shape)).astype(np.float32)
    assert isinstance(space, spaces.Discrete)
    return rng.integers(space.n, size=shape)


def future(envs: Any, rows: list[int], steps: int, seed: int = 7) -> list[list[Any]]:
    """What each of the `rows` of a vector meets, restarted where it ends; the k-th of them acts as any other k-th."""
    plan = actions(envs.single_action_space, (steps, len(rows)), seed)
    others = actions(envs.single_action_space, (steps, envs.num_envs), seed + 1 + rows[0])
    seen: list[list[Any]] = [[] for _ in rows]
    for t in range(steps):
        others[t, rows] = plan[t]
        observation, reward, terminated, truncated, infos = envs.step(others[t])
        for record, row in zip(seen, rows, strict=True):
            record.append((at(observation, row), reward[row], terminated[row], truncated[row], told(infos, row)))
        ended = terminated | truncated
        if ended.any():
            observation, infos = envs.reset(options={"reset_mask": ended})
            for record, row in zip(seen, rows, strict=True):
                if ended[row]:
                    record.append((at(observation, row), told(infos, row)))
    return seen


def at(observation: Any, row: int) -> Any:
    return tuple(part[row] for part in observation) if isinstance(observation, tuple) else observation[row].copy()


def told(infos: dict[str, Any], row: int) -> dict[str, Any]:
    """The infos of one row alone."""
    return {name: infos[name][row] for name in infos if not name.startswith("_") and infos[f"_{name}"][row]}


def vector(env_id: str, kwargs: dict[str, Any], seed: int) -> Any:
    """Three environments in turn, in the middle of episodes."""
    envs = InTurn(lambda index: quiet_make(env_id, **kwargs), 3)
    envs.reset(seed=seed)
    future(envs, [0, 1, 2], 33, seed)
    return envs


def batch(env_id: str, kwargs: dict[str, Any], seed: int, num_envs: int = 3, num_threads: int = 1) -> MujocoBatch:
    """A native batch, in the middle of episodes."""
    envs = MujocoBatch(quiet_make(env_id, **kwargs), num_envs, num_threads)
    envs.reset(seed=seed)
    future(envs, list(range(num_envs)), 33, seed)
    return envs


def check_native(env_id: str, kwargs: dict[str, Any]) -> None:
    envs, other = batch(env_id, kwargs, 0), batch(env_id, kwargs, 1, num_envs=5, num_threads=2)
    saved = envs.save(np.array([2, 0]))
    assert plain(saved)
    expected = future(envs, [2, 0], STEPS)
    for where, rows in ((envs, [2, 1]), (other, [4, 1])):
        where.restore(np.array(rows), saved)
        assert exactly(future(where, rows, STEPS), expected), rows


@pytest.mark.parametrize(("env_id", "kwargs"), NATIVE, ids=str)
def test_a_native_batch_goes_on_bit_for_bit(env_id: str, kwargs: dict[str, Any]) -> None:
    check_native(env_id, kwargs)


@pytest.mark.parametrize("env_id", ["Humanoid-v4", "Ant-v5"])
def test_a_batch_that_keeps_its_data_goes_on_too(env_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contact_forces, "model_with_plugin", lambda env: None)
    check_native(env_id, {})


@pytest.mark.parametrize(("env_id", "kwargs"), IN_TURN, ids=str)
def test_environments_in_turn_go_on_bit_for_bit(env_id: str, kwargs: dict[str, Any]) -> None:
    envs, other = vector(env_id, kwargs, 0), vector(env_id, kwargs, 1)
    assert envs.snapshot_obstacle() is None
    saved = envs.save(np.array([2, 0]))
    assert plain(saved)
    expected = future(envs, [2, 0], STEPS)
    assert any(len(step) == 2 for seen in expected for step in seen) or env_id.startswith("Ant")
    for where, rows in ((envs, [2, 1]), (other, [0, 1])):
        where.restore(np.array(rows), saved)
        assert exactly(future(where, rows, STEPS), expected), rows


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "Blackjack-v1", "Ant-v5"])
def test_an_instance_that_was_never_reset_takes_a_snapshot(env_id: str) -> None:
    env, fresh = quiet_make(env_id), quiet_make(env_id)
    action = actions(env.action_space, (), 0)
    env.reset(seed=3)
    env.step(action)
    restore(fresh, save(env))
    assert exactly(env.step(action), fresh.step(action))
    assert exactly(save(env), save(fresh))
    assert exactly(env.reset(), fresh.reset())


def test_what_came_into_being_later_is_gone() -> None:
    env = quiet_make("FrozenLake-v1")
    env.reset(seed=0)
    before = save(env)
    env.unwrapped.later = 1
    restore(env, before)
    assert not hasattr(env.unwrapped, "later")
    assert exactly(save(env), before)
    assert env.unwrapped.P
    assert env.spec is not None


def test_the_table_of_a_toy_is_not_copied() -> None:
    env = quiet_make("Taxi-v4")
    env.reset(seed=0)
    assert "P" not in save(env)[-1]


def test_the_time_limit_goes_on_from_the_saved_step() -> None:
    for num in ("native", "sync"):
        envs = environments("HalfCheetah-v4", vectorization=num, max_episode_steps=10)
        still, one = np.zeros((3, 6), dtype=np.float32), np.array([0])
        for _ in range(4):
            envs.step(still)
        saved = envs.save(one)
        for _ in range(3):
            envs.step(still)
        envs.restore(np.array([1]), saved)
        cut = [envs.step(still)[3].tolist() for _ in range(3)]
        assert cut == [[False] * 3, [False] * 3, [True, False, True]]
        envs.restart(np.array([True, False, True]))
        assert [envs.step(still)[3][1] for _ in range(3)] == [False, False, True]
        envs.close()


def environments(
    env_id: str, vectorization: Any = "sync", num_envs: int = 3, max_episode_steps: int | None = None, **kwargs: Any
) -> Environments:
    task = Task(env_id, kwargs, max_episode_steps, False, False, 10.0, 10.0)
    return Environments(task, num_envs, list(range(num_envs)), Parallelism(vectorization, 1))


@pytest.mark.parametrize(
    ("env_id", "vectorization"),
    [("HumanoidStandup-v4", "native"), ("HumanoidStandup-v4", "sync"), ("CartPole-v1", "sync")],
)
def test_the_observation_is_that_of_the_time_of_saving(env_id: str, vectorization: Any) -> None:
    """Also when another environment is restarted next, which shows all observations again."""
    envs = environments(env_id, vectorization)
    size = int(np.prod(envs._envs.single_action_space.shape or (1,)))
    step = np.zeros((3, size), dtype=np.float32 if size > 1 else np.int64)
    for _ in range(3):
        envs.step(step)
    seen, saved = envs.observation[1].copy(), envs.save(np.array([1]))
    for _ in range(2):
        envs.step(step)
    envs.restore(np.array([2]), saved)
    assert exactly(envs.observation[2], seen)
    assert not exactly(envs.observation[1], seen)
    assert exactly(envs.restart(np.array([True, False, False]))[2], seen)
    envs.restore(np.array([], dtype=np.int64), [])
    envs.close()


def test_a_slot_that_has_ended_takes_a_snapshot() -> None:
    envs = environments("CartPole-v1")
    saved = envs.save(np.array([0]))
    push, rows = np.ones((3, 1), dtype=np.int64), np.array([0, 1, 2])
    while not (ended := envs.step(push)[2]).any():
        pass
    last = envs.save(np.flatnonzero(ended))
    envs.restore(rows, saved * 3)
    _, reward, terminated, _ = envs.step(push)
    assert reward.tolist() == [1.0] * 3
    assert not terminated.any()
    envs.restore(rows[:1], last[:1])  # and a slot may be put back where it has ended, to be restarted
    envs.restart(np.array([True, False, False]))
    envs.step(push)


@pytest.mark.parametrize(
    ("env_id", "vectorization"), [("FrozenLake-v1", "sync"), ("Hopper-v4", "native"), ("Hopper-v4", "sync")]
)
def test_one_seed_is_one_future(env_id: str, vectorization: Any) -> None:
    envs = environments(env_id, vectorization)
    everyone = np.ones(3, dtype=bool)
    envs.restore(np.array([1, 2]), envs.save(np.array([0])) * 2)
    envs.reseed(np.array([0, 1, 2]), [5, 5, 6])
    rows = [
        np.concatenate([envs.restart(everyone), step(envs)], axis=-1) if env_id == "Hopper-v4" else step(envs)
        for _ in range(40)
    ]
    futures = np.array(rows)
    np.testing.assert_array_equal(futures[:, 0], futures[:, 1])
    assert not np.array_equal(futures[:, 0], futures[:, 2])
    envs.close()


def step(envs: Environments) -> Any:
    space = envs._envs.single_action_space
    action = np.zeros((3, *space.shape), dtype=np.float32) if space.shape else np.full((3, 1), 2)
    observation, _, terminated, truncated = envs.step(action)
    seen = observation.copy()
    if (terminated | truncated).any():
        envs.restart(terminated | truncated)
    return seen


def test_a_seed_is_that_of_a_reset() -> None:
    env, other = quiet_make("CartPole-v1"), quiet_make("CartPole-v1")
    env.reset(seed=1)
    reseed(env, 5)
    assert exactly(env.reset(), other.reset(seed=5))
    assert env.unwrapped.np_random_seed == 5


class Own(gymnasium.Env[Any, Any]):
    """Draws from three generators, and keeps its state in place, in lists and in a queue."""

    observation_space: spaces.Space[Any] = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space: spaces.Space[Any] = spaces.Discrete(2)

    def __init__(self) -> None:
        self.noise, self.drift = np.random.Generator(np.random.MT19937(0)), np.random.default_rng(0)
        self.place, self.trail, self.counts = np.zeros(3), deque([0.0], maxlen=4), {("a", 1): [0]}
        self.scale = lambda x: 2 * x

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place[:] = self.np_random.normal(size=3)
        return self.place, {}

    def step(self, action: Any) -> Any:
        self.place += self.scale(self.noise.normal(size=3)) + self.drift.normal() + action
        self.trail.append(self.place[0])
        self.counts[("a", 1)][0] += 1
        return self.place, sum(self.trail), self.counts[("a", 1)][0] % 50 == 0, False, {"place": self.place.copy()}


def test_an_environment_of_plain_data_works_by_itself() -> None:
    envs = InTurn(lambda index: TimeLimit(Own(), 30), 3)
    envs.reset(seed=0)
    future(envs, [0, 1, 2], 20)
    assert envs.snapshot_obstacle() is None
    saved = envs.save(np.array([0]))
    assert plain(saved)
    expected = future(envs, [0], STEPS)
    for row in (0, 2):
        envs.restore(np.array([row]), saved)
        assert exactly(future(envs, [row], STEPS), expected)


def test_every_generator_is_seeded_anew() -> None:
    one, other = Own(), Own()
    one.reset(seed=0)
    one.step(0)
    restore(other, save(one))
    reseed(one, 3)
    assert not exactly(save(one)[0]["noise"], save(other)[0]["noise"])
    reseed(other, 3)
    assert one.drift.integers(2**60) != one.np_random.integers(2**60)
    reseed(one, 3)
    assert exactly(one.step(0), other.step(0))


class World:
    """Nobody can see what it holds."""


class Lander(Own):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()


class Nested(Own):
    def __init__(self) -> None:
        super().__init__()
        self.worlds = {"one": [World()]}


class Shared(Own):
    def __init__(self) -> None:
        super().__init__()
        self.x = self.place[:1]


class Counting(Own):
    """Its function has a variable of its own."""

    def __init__(self) -> None:
        super().__init__()
        count = 0

        def scale(x: Any) -> Any:
            nonlocal count
            count += 1
            return count * x

        self.scale = scale


@pytest.mark.parametrize(
    ("env", "words"),
    [
        (lambda: Lander(), "Lander.world holds World"),
        (lambda: TimeLimit(Nested(), 5), "Nested.worlds holds World"),
        (lambda: Shared(), "Shared.x and Shared.place share memory"),
        (lambda: Counting(), "Counting.scale holds function"),
        (lambda: NormalizeObservation(Own()), "NormalizeObservation.obs_rms holds RunningMeanStd"),
        (lambda: quiet_make("CartPole-v1", render_mode="rgb_array"), "render_mode=rgb_array"),
    ],
)
def test_what_could_be_restored_wrongly_is_refused(env: Any, words: str) -> None:
    made = env()
    made.reset(seed=0)
    assert words in str(obstacle(made))


def test_saving_what_cannot_be_saved_is_a_fault() -> None:
    with pytest.raises(EnvironmentFault, match=r"Lander\.world holds World"):
        save(Lander())


def test_bodies_that_sleep_and_plugins_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    env = quiet_make("Hopper-v4")
    env.reset(seed=0)
    assert obstacle(env) is None
    env.unwrapped.model.opt.enableflags |= mujoco.mjtEnableBit.mjENBL_SLEEP
    assert "sleep" in str(obstacle(env))
    env.unwrapped.model = contact_forces.model_with_plugin(env.unwrapped)
    assert "plugins" in str(obstacle(env))


def test_a_mujoco_environment_of_ones_own_may_change_its_model() -> None:
    class Moon(type(quiet_make("Hopper-v4").unwrapped)):  # type: ignore[misc]
        """Its gravity may be drawn anew."""

    env = Moon()
    env.reset(seed=0)
    assert "Moon.model holds MjModel" in str(obstacle(env))


def test_worker_processes_are_out_of_reach() -> None:
    envs = environments("CartPole-v1", "async", num_envs=1)
    assert "worker processes" in str(envs.snapshot_obstacle())
    envs.close()
    for env_id, vectorization in (("CartPole-v1", "sync"), ("Hopper-v4", "native")):
        envs = environments(env_id, vectorization)
        assert envs.snapshot_obstacle() is None
        envs.close()


class Emulated(gymnasium.Env[Any, Any]):
    """Hides its state, as emulators do, but clones it. It sticks at random, and counts its lives in the open."""

    observation_space: spaces.Space[Any] = spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space: spaces.Space[Any] = spaces.Discrete(2)

    def __init__(self) -> None:
        self.machine, self.lives = World(), 3
        self.machine.memory, self.machine.rng = [0.0], np.random.default_rng(0)  # type: ignore[attr-defined]

    def clone_state(self, include_rng: bool = False) -> Any:
        machine: Any = self.machine
        return (tuple(machine.memory), machine.rng.bit_generator.state if include_rng else None)

    def restore_state(self, state: Any) -> None:
        machine: Any = self.machine
        machine.memory = list(state[0])
        if state[1] is not None:
            machine.rng.bit_generator.state = state[1]

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.machine.memory, self.lives = [self.np_random.normal()], 3  # type: ignore[attr-defined]
        return np.array(self.machine.memory), {}  # type: ignore[attr-defined]

    def step(self, action: Any) -> Any:
        machine: Any = self.machine
        machine.memory[0] += action * machine.rng.normal()
        self.lives -= machine.memory[0] > 2
        return np.array(machine.memory), 0.0, self.lives == 0, False, {"lives": self.lives}


def test_an_environment_may_clone_what_it_hides() -> None:
    def make() -> Any:
        return FlattenObservation(FrameStackObservation(TimeLimit(Emulated(), 60), 4))

    envs, other = (InTurn(lambda index: make(), 2) for _ in range(2))
    for seed, each in enumerate((envs, other)):
        each.reset(seed=seed)
        assert each.snapshot_obstacle() is None
        future(each, [0, 1], 20 + seed)
    saved = envs.save(np.array([0]))
    expected = future(envs, [0], STEPS)
    for where, row in ((envs, 0), (envs, 1), (other, 1)):
        where.restore(np.array([row]), saved)
        assert exactly(future(where, [row], STEPS), expected)
