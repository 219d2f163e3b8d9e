"""The native batch against Gymnasium's own environments: every bit of every step, through resets."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from conftest import quiet_make

from trpo_cli.envs.mujoco import contact_forces
from trpo_cli.envs.mujoco.batch import MujocoBatch, batch_obstacle
from trpo_cli.envs.mujoco.tasks import TASKS

FAMILIES = (
    "Hopper",
    "Walker2d",
    "HalfCheetah",
    "Swimmer",
    "Ant",
    "Humanoid",
    "HumanoidStandup",
    "Reacher",
    "Pusher",
    "InvertedPendulum",
    "InvertedDoublePendulum",
)
IDS = [f"{name}-{version}" for name in FAMILIES for version in ("v4", "v5") if (name, version) != ("Pusher", "v4")]


def compare(env_id: str, steps: int, num_envs: int = 3, num_threads: int = 2, **kwargs: Any) -> None:
    """Step a batch and as many plain environments with the same actions; restart what ended, from the same seeds."""
    plain = [quiet_make(env_id, **kwargs) for _ in range(num_envs)]
    batch = MujocoBatch(quiet_make(env_id, **kwargs), num_envs, num_threads)
    rng = np.random.default_rng(0)
    space = batch.single_action_space
    assert isinstance(space, gymnasium.spaces.Box)
    observations, _ = batch.reset(seed=[5 + i for i in range(num_envs)])
    for i, env in enumerate(plain):
        np.testing.assert_array_equal(observations[i], env.reset(seed=5 + i)[0])
    ended = np.zeros(num_envs, dtype=bool)
    for t in range(steps):
        scale = 0.3 if (t // 100) % 2 else 1.0  # gentle for a while, so that bodies lie, slide and stand too
        action = (scale * rng.uniform(space.low, space.high, (num_envs, *space.shape))).astype(np.float32)
        observations, rewards, terminated, truncated, _ = batch.step(action)
        infos = batch.infos()
        for i, env in enumerate(plain):
            expected, reward, end, cut, info = env.step(action[i])
            assert (rewards[i], terminated[i], truncated[i]) == (reward, end, cut), (env_id, t, i)
            np.testing.assert_array_equal(observations[i], expected)
            assert infos.keys() == info.keys() - {"TimeLimit.truncated"}
            for name, values in infos.items():
                np.testing.assert_array_equal(values[i], info[name], name)
            ended[i] = end or cut
        if ended.any():
            left = observations[~ended]
            observations, _ = batch.reset(options={"reset_mask": ended.copy()})
            np.testing.assert_array_equal(observations[~ended], left)
            for i in np.flatnonzero(ended):
                np.testing.assert_array_equal(observations[i], plain[i].reset()[0])


@pytest.mark.parametrize("steps", [200, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("env_id", IDS)
def test_every_bit_is_gymnasiums(env_id: str, steps: int) -> None:
    compare(env_id, steps=steps)


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("Hopper-v4", {"terminate_when_unhealthy": False, "healthy_reward": 2.5}),
        ("Hopper-v5", {"exclude_current_positions_from_observation": False, "frame_skip": 2}),
        ("Walker2d-v5", {"terminate_when_unhealthy": False, "reset_noise_scale": 0.1, "max_episode_steps": 37}),
        ("HalfCheetah-v5", {"forward_reward_weight": 3.0, "ctrl_cost_weight": 1}),
        ("Swimmer-v4", {"exclude_current_positions_from_observation": False}),
        ("Ant-v4", {"use_contact_forces": True}),
        ("Ant-v4", {"use_contact_forces": True, "exclude_current_positions_from_observation": False}),
        ("Ant-v5", {"include_cfrc_ext_in_observation": False, "main_body": "torso"}),
        ("Ant-v5", {"contact_force_range": (-3.0, 2.0), "contact_cost_weight": 0.1, "main_body": 3}),
        ("Humanoid-v5", {"include_cinert_in_observation": False, "contact_cost_range": (0.0, 0.001)}),
        ("Humanoid-v5", {"include_cvel_in_observation": False, "include_cfrc_ext_in_observation": False}),
        ("HumanoidStandup-v5", {"include_qfrc_actuator_in_observation": False, "uph_cost_weight": 2}),
        ("Reacher-v5", {"reward_dist_weight": 2, "reward_control_weight": 0.3}),
        ("Pusher-v5", {"reward_near_weight": 0.1}),
        ("InvertedPendulum-v5", {"reset_noise_scale": 0.05}),
        ("InvertedDoublePendulum-v5", {"healthy_reward": 3.0}),
    ],
    ids=str,
)
def test_arguments_of_the_constructor_hold(env_id: str, kwargs: dict[str, Any]) -> None:
    compare(env_id, steps=150, **kwargs)


def test_every_task_is_compared() -> None:
    assert {type(quiet_make(env_id).unwrapped) for env_id in IDS} == TASKS.keys()


@pytest.mark.parametrize("env_id", ["Hopper-v4", "Humanoid-v5", "Reacher-v4", "InvertedDoublePendulum-v4"])
def test_one_alone_is_as_exact(env_id: str) -> None:
    compare(env_id, steps=100, num_envs=1)


def test_closing_ends_the_simulations_at_once() -> None:
    batch = MujocoBatch(quiet_make("Hopper-v4"), 4, 2)
    alive = weakref.ref(batch._simulations.batch)
    gc.disable()
    try:
        batch.close()
        assert alive() is None
    finally:
        gc.enable()


def test_sensors_that_ask_for_contact_forces_are_left_to_gymnasium(tmp_path: Path) -> None:
    settings = quiet_make("Humanoid-v4").unwrapped
    spec = mujoco.MjSpec.from_file(settings.fullpath)
    spec.bodies[1].add_site(name="here")
    spec.add_sensor(
        name="a", type=mujoco.mjtSensor.mjSENS_ACCELEROMETER, objtype=mujoco.mjtObj.mjOBJ_SITE, objname="here"
    )
    spec.compile()
    (tmp_path / "sensing.xml").write_text(spec.to_xml())
    assert "sensors" in str(batch_obstacle(quiet_make("Humanoid-v5", xml_file=str(tmp_path / "sensing.xml"))))


@pytest.mark.parametrize("num_threads", [1, 3])
def test_threads_change_nothing(num_threads: int) -> None:
    compare("Humanoid-v4", steps=100, num_envs=5, num_threads=num_threads)


def test_contacts_are_gymnasiums_without_the_plugin_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where MuJoCo is another than the plugin was tried with."""
    monkeypatch.setattr(contact_forces, "model_with_plugin", lambda env: None)
    compare("Humanoid-v4", steps=100)
    compare("Ant-v5", steps=100)


def test_the_plugin_is_for_the_mujoco_it_was_tried_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contact_forces.mujoco, "__version__", "5.0.0")
    assert contact_forces._register_plugin.__wrapped__() is None


def test_contacts_are_felt() -> None:
    """Otherwise the comparison of contact forces would compare zeros."""
    batch = MujocoBatch(quiet_make("Humanoid-v4"), 4, 2)
    batch.reset(seed=0)
    for _ in range(60):
        observation, *_ = batch.step(np.zeros((4, 17), dtype=np.float32))
    assert np.abs(observation[:, -84:]).max() > 10


def test_a_seed_decides_the_first_state_and_the_resets_after_it() -> None:
    batch = MujocoBatch(quiet_make("Hopper-v4"), 2, 1)
    everyone = {"reset_mask": np.ones(2, dtype=bool)}
    first, again = (np.array([batch.reset(seed=3)[0], batch.reset(options=everyone)[0]]) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], first[1])


class Disguised(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Any wrapper may change anything."""


def test_what_is_not_exact_is_not_native() -> None:
    assert batch_obstacle(quiet_make("Hopper-v4")) is None
    assert "not a MuJoCo task" in str(batch_obstacle(quiet_make("CartPole-v1")))
    assert "wrapped in Disguised" in str(batch_obstacle(Disguised(quiet_make("Hopper-v4"))))
    assert "render_mode=rgb_array" in str(batch_obstacle(quiet_make("Hopper-v4", render_mode="rgb_array")))
    sleepy = quiet_make("Hopper-v4")
    sleepy.unwrapped.model.opt.enableflags |= mujoco.mjtEnableBit.mjENBL_SLEEP  # type: ignore[attr-defined]
    assert "sleep" in str(batch_obstacle(sleepy))
