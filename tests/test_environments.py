"""Environments that are kept in a file and go on from it bit for bit, and those made anew after a fault."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import probes  # noqa: F401  registers the probe environments
import pytest
from exactness import exactly
from gymnasium import spaces
from test_snapshot import Emulated, World, plain

from trpo_cli.envs import generators
from trpo_cli.envs.environments import Environments
from trpo_cli.envs.make import Parallelism, Task
from trpo_cli.envs.mujoco import contact_forces
from trpo_cli.envs.snapshot import CLONE
from trpo_cli.envs.values import GENERATOR, SIMULATION, SPACE
from trpo_cli.errors import CheckpointError, ConfigError, EnvironmentFault

KEPT: list[tuple[str, Any]] = [
    ("Walker2d-v4", "native"),
    ("Ant-v4", "native"),
    ("Ant-v5", "native"),
    ("Humanoid-v4", "native"),
    ("Ant-v4", "sync"),
    ("CartPole-v1", "sync"),
    ("FrozenLake-v1", "sync"),
    ("Taxi-v4", "sync"),
    ("Pendulum-v1", "sync"),
    ("Probe/Drawing-v0", "sync"),
    ("CartPole-v1", "async"),
    ("Probe/Drawing-v0", "async"),
]


def made(env_id: str, vectorization: Any, seed: int = 0, num_envs: int = 3, **kwargs: Any) -> Environments:
    limit = 40 if env_id in ("Pendulum-v1", "Ant-v4", "Taxi-v4") else None
    task = Task(env_id, kwargs, limit, False, False, 10.0, 10.0, step_timeout=30.0)
    return Environments(task, num_envs, [seed + index for index in range(num_envs)], Parallelism(vectorization, 2))


def met(envs: Environments, steps: int, seed: int = 5) -> list[Any]:
    """All that environments give under random actions, ended ones restarted without a seed."""
    rng, space, seen = np.random.default_rng(seed), envs._envs.single_action_space, []
    for _ in range(steps):
        if isinstance(space, spaces.Box):
            action = rng.uniform(-1, 1, (envs.num_envs, *space.shape)).astype(np.float32)
        else:
            action = rng.integers(int(space.n), size=(envs.num_envs, 1))
        observation, reward, terminated, truncated = envs.step(action)
        seen.append((observation.copy(), reward.copy(), terminated.copy(), truncated.copy()))
        if (ended := terminated | truncated).any():
            seen.append(envs.restart(ended).copy())
    return seen


@pytest.mark.parametrize(("env_id", "vectorization"), KEPT)
def test_fresh_environments_go_on_from_a_file(env_id: str, vectorization: Any) -> None:
    envs = made(env_id, vectorization)
    assert envs.resume_obstacle() is None
    met(envs, 33, seed=1)
    state = envs.state_dict()
    assert plain(state)
    kept, expected = copy.deepcopy(state), met(envs, 90)
    assert exactly(state, kept)
    other = made(env_id, vectorization, seed=70)
    met(other, 7, seed=2)
    for _ in range(2):
        other.load_state_dict(kept)
        assert other.steps == 33
        assert exactly(other.observation, kept["observation"])
        assert exactly(met(other, 90), expected)
    assert any(isinstance(part, np.ndarray) for part in expected) or env_id == "Ant-v5"  # a restart
    envs.close()
    other.close()


@pytest.mark.parametrize(("before", "after"), [("sync", "async"), ("async", "sync")])
def test_what_ran_in_turn_goes_on_in_workers(before: Any, after: Any) -> None:
    envs, other = made("Probe/Drawing-v0", before), made("Probe/Drawing-v0", after, seed=9)
    met(envs, 25)
    other.load_state_dict(envs.state_dict())
    assert exactly(met(other, 50), met(envs, 50))
    envs.close()
    other.close()


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_an_ended_environment_is_kept_as_ended(vectorization: Any) -> None:
    envs, push = made("CartPole-v1", vectorization), np.ones((3, 1), dtype=np.int64)
    while not (ended := envs.step(push)[2]).any():
        pass
    other = made("CartPole-v1", vectorization, seed=8)
    other.load_state_dict(envs.state_dict())
    assert exactly(other.state_dict(), envs.state_dict())
    assert exactly(other.restart(ended), envs.restart(ended))
    assert exactly(met(other, 30), met(envs, 30))
    envs.close()
    other.close()


@pytest.mark.parametrize("vectorization", ["native", "sync", "async"])
def test_environments_made_anew_are_as_new(vectorization: Any) -> None:
    envs = made("Hopper-v4", vectorization)
    met(envs, 20)
    envs.rebuild([5, 6, 7])
    fresh = made("Hopper-v4", vectorization, seed=5)
    assert envs.steps == 0
    assert exactly(envs.observation, fresh.observation)
    assert exactly(met(envs, 60), met(fresh, 60))
    envs.close()
    fresh.close()


def test_what_is_drawn_from_spaces_is_tried_out_and_taken_back() -> None:
    envs, rows = made("Probe/Drawing-v0", "sync"), np.arange(3)
    met(envs, 7)
    aside = envs.save(rows)
    expected = met(envs, 40)
    envs.restore(rows, aside)
    assert exactly(met(envs, 40), expected)
    envs.restore(rows, [aside[0]] * 3)
    envs.reseed(rows, [1, 1, 2])
    reward = envs.step(np.zeros((3, 1), dtype=np.int64))[1]
    assert reward[0] == reward[1] != reward[2]
    envs.close()


def upset(envs: Environments, state: dict[str, Any]) -> None:
    """Send the second simulation out of this world."""
    if isinstance(state["envs"], dict):
        envs._envs._simulations.qvel[1] = 1e30
    else:
        state["envs"][1]["env"][-1]["data"][SIMULATION]["qvel"][:] = 1e30
        envs.load_state_dict(state)


@pytest.mark.parametrize("vectorization", ["native", "sync", "async"])
def test_an_unstable_simulation_is_a_fault(vectorization: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    envs, still = made("Hopper-v4", vectorization), np.zeros((3, 3), dtype=np.float32)
    for _ in range(4):
        envs.step(still)
    well = envs.state_dict()
    upset(envs, copy.deepcopy(well))
    said = (
        r"^Hopper-v4: the simulation of environment 1 became unstable at step 5 \(bad velocity\): its actions or forces"
    )
    with pytest.raises(EnvironmentFault, match=said):
        envs.step(still)
    envs.load_state_dict(well)
    envs.step(still)  # what was counted is forgotten
    envs.rebuild([0, 1, 2])
    met(envs, 50)
    envs.close()
    assert not list(tmp_path.iterdir())


def test_a_batch_that_keeps_its_data_forgets_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contact_forces, "model_with_plugin", lambda env: None)
    envs, still = made("Ant-v5", "native"), np.zeros((3, 8), dtype=np.float32)
    envs._envs._simulations.qvel[1] = 1e30
    with pytest.raises(EnvironmentFault, match="unstable"):
        envs.step(still)
    envs.restart(np.array([False, True, False]))
    envs.step(still)
    envs.close()


def test_forces_too_large_for_the_time_step_are_noticed_on_every_thread() -> None:
    envs = made("HalfCheetah-v4", "native", num_envs=64)
    envs._envs._simulations.batch.model.actuator_gear[:] *= 1e9
    envs._envs._simulations.settings.model.actuator_gear[:] *= 1e9
    envs._envs._simulations.batch.set_models(envs._envs._simulations.batch.model)
    with pytest.raises(EnvironmentFault, match=r"unstable at step \d+ \(bad "):
        met(envs, 50)
    envs.close()


class Opaque(Emulated):
    """Clones its state as a thing of its own."""

    def clone_state(self, include_rng: bool = False) -> Any:
        thing: Any = World()
        thing.state = super().clone_state(include_rng)
        return thing

    def restore_state(self, state: Any) -> None:
        super().restore_state(state.state)


@pytest.mark.parametrize(
    ("kind", "obstacle"), [(Emulated, None), (Opaque, "Opaque.clone_state returns World, which is not plain data")]
)
@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_clone_that_no_file_can_hold_is_an_obstacle(kind: Any, obstacle: str | None, vectorization: Any) -> None:
    gymnasium.register("Kind-v0", entry_point=kind)
    envs = made("Kind-v0", vectorization)
    assert envs.resume_obstacle() == obstacle
    assert envs.snapshot_obstacle() == (None if vectorization == "sync" else "they run in worker processes")
    envs.close()
    del gymnasium.registry["Kind-v0"]


def attribute(name: str, value: Any) -> Callable[[Any], None]:
    return lambda state: state["envs"][0]["env"][-1].__setitem__(name, value)


def simulated(field: str, value: Any) -> Callable[[Any], None]:
    return lambda state: state["envs"][0]["env"][-1]["data"][SIMULATION].__setitem__(field, value)


DICE = {"bit_generator": "python", "state": (3, (0,) * 625, None)}
GENERATOR_STATE = {"bit_generator": "PCG64", "state": {"state": 1, "inc": 1}, "has_uint32": 0, "uinteger": 0}
TWISTER = np.random.MT19937(0).state
WRONG: list[tuple[str, Any, Callable[[Any], Any]]] = [
    ("CartPole-v1", "sync", lambda state: state.pop("steps")),
    ("CartPole-v1", "sync", lambda state: state.update(observation=np.zeros((3, 5)))),
    ("CartPole-v1", "sync", lambda state: state.update(envs={})),
    ("CartPole-v1", "sync", lambda state: state["envs"].pop()),
    ("CartPole-v1", "sync", lambda state: state["envs"][0].pop("ended")),
    ("CartPole-v1", "sync", lambda state: state["envs"][0].update(observation=np.zeros(3, np.float32))),
    ("CartPole-v1", "sync", lambda state: state["envs"][0]["env"].pop()),
    ("CartPole-v1", "sync", lambda state: state["envs"][0]["env"].__setitem__(0, [])),
    ("CartPole-v1", "sync", lambda state: state["envs"][0]["env"][0].update(env=None)),
    ("CartPole-v1", "sync", attribute("step", 3)),
    ("CartPole-v1", "sync", attribute("unwrapped", 3)),
    ("CartPole-v1", "sync", attribute("metadata", {})),
    ("CartPole-v1", "sync", attribute("__class__", 3)),
    ("CartPole-v1", "sync", attribute("action_space", 3)),
    ("CartPole-v1", "sync", attribute("action_space", {SPACE: [None, None]})),
    ("CartPole-v1", "sync", attribute("gravity", {SPACE: [None]})),
    ("CartPole-v1", "sync", attribute("gravity", {SIMULATION: {}, "time": 0.0})),
    ("CartPole-v1", "sync", attribute("gravity", [{SIMULATION: {"real": 1}, "time": 0.0}])),
    ("CartPole-v1", "sync", attribute("gravity", World())),
    ("CartPole-v1", "sync", attribute("_np_random", {GENERATOR: {**GENERATOR_STATE, "bit_generator": "seterr"}})),
    ("CartPole-v1", "sync", attribute("_np_random", {GENERATOR: {**GENERATOR_STATE, "state": 1}})),
    ("CartPole-v1", "sync", attribute("dice", {GENERATOR: {**DICE, "state": (3, (0,) * 624 + (625,), None)}})),
    ("CartPole-v1", "sync", attribute("dice", {GENERATOR: {**DICE, "state": (3, (0,) * 9, None)}})),
    ("CartPole-v1", "async", attribute("step", 3)),
    ("CartPole-v1", "async", lambda state: state["envs"].pop()),
    ("Hopper-v4", "sync", attribute("data", None)),
    ("Hopper-v4", "sync", simulated("qpos", np.zeros(7))),
    ("Hopper-v4", "sync", simulated("qpos", np.zeros(6, np.float32))),
    ("Hopper-v4", "sync", simulated("model", np.zeros(6))),
    ("Hopper-v4", "sync", simulated("dof_awake_ind", np.full(6, 2**30, np.int32))),
    ("Hopper-v4", "native", lambda state: state.update(envs=[])),
    ("Hopper-v4", "native", lambda state: state["envs"].pop("elapsed")),
    ("Hopper-v4", "native", lambda state: state["envs"].update(elapsed=np.zeros(3))),
    ("Hopper-v4", "native", lambda state: state["envs"]["tables"].pop()),
    ("Hopper-v4", "native", lambda state: state["envs"]["tables"].__setitem__(0, np.zeros((3, 1)))),
    ("Hopper-v4", "native", lambda state: state["envs"]["generators"].pop()),
    ("Hopper-v4", "native", lambda state: state["envs"]["generators"].__setitem__(0, {"bit_generator": "PCG64"})),
]


@pytest.mark.parametrize(("env_id", "vectorization", "spoil"), WRONG)
def test_a_state_that_does_not_fit_is_refused(env_id: str, vectorization: Any, spoil: Callable[[Any], Any]) -> None:
    envs = made(env_id, vectorization)
    state = envs.state_dict()
    spoil(state)
    with pytest.raises(CheckpointError, match=r"do not match|is invalid"):
        envs.load_state_dict(state)
    met(envs, 3)  # and nothing has happened
    envs.close()


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_clone_that_an_environment_cannot_take_is_refused(vectorization: Any) -> None:
    gymnasium.register("Kind-v0", entry_point=Emulated)
    envs = made("Kind-v0", vectorization)
    state = envs.state_dict()
    state["envs"][2]["env"][-1][CLONE] = 3
    with pytest.raises(CheckpointError, match="not match: TypeError"):
        envs.load_state_dict(state)
    envs.close()
    del gymnasium.registry["Kind-v0"]


@pytest.mark.parametrize("position", [-1, 625])
def test_a_generator_reads_only_its_own_numbers(position: int) -> None:
    assert generators.restore_generator(TWISTER, None).bit_generator.state["state"]["pos"] == TWISTER["state"]["pos"]
    with pytest.raises(CheckpointError, match="position"):
        generators.restore_generator({**TWISTER, "state": {**TWISTER["state"], "pos": position}}, None)


def test_a_space_that_nobody_drew_from_is_restored_as_such() -> None:
    space = spaces.Sequence(spaces.OneOf((spaces.Discrete(3), spaces.Box(0.0, 1.0, (2,)))))
    assert generators.space_state(space) == [None] * 4
    space.seed(3)
    states = generators.space_state(space)
    drawn = space.sample()
    generators.restore_space(space, states)
    assert exactly(space.sample(), drawn)
    generators.restore_space(space)
    assert generators.space_state(space) == [None] * 4


def test_what_went_away_since_it_was_saved_or_had_not_come_yet_is_no_obstacle() -> None:
    there, here = made("CartPole-v1", "sync", num_envs=1), made("CartPole-v1", "sync", num_envs=1)
    del there._envs.envs[0].unwrapped.steps_beyond_terminated
    there._envs.envs[0].unwrapped.came_late = 5
    here.load_state_dict(there.state_dict())
    assert not hasattr(here._envs.envs[0].unwrapped, "steps_beyond_terminated")
    assert here._envs.envs[0].unwrapped.came_late == 5


def test_what_could_be_made_before_is_no_fault_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    envs = made("CartPole-v1", "sync")

    def refuse(*arguments: Any) -> Any:
        raise ConfigError("server busy")

    with monkeypatch.context() as patch:
        patch.setattr(Task, "make_one", refuse)
        with pytest.raises(EnvironmentFault, match="server busy"):
            envs.rebuild([0, 1, 2])
    envs.rebuild([0, 1, 2])
    assert len(met(envs, 5)) >= 5
