"""Environments side by side: the fastest kind that is exact, the same results from every kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import probes  # noqa: F401  registers the probe environments
import pytest
import torch
from conftest import NO_MEMORY, built, learned
from exactness import exactly

from trpo_cli.envs.make import WORKERS_PAY, Parallelism, Task
from trpo_cli.envs.mujoco.batch import MujocoBatch
from trpo_cli.errors import ConfigError, EnvironmentFault
from trpo_cli.models.policies import on_cpu

PLAIN: dict[str, Any] = {
    "max_episode_steps": None,
    "normalize_observation": False,
    "normalize_reward": False,
    "observation_clip": 1.0,
    "reward_clip": 1.0,
}


def task(env_id: str, **kwargs: Any) -> Task:
    return Task(id=env_id, kwargs=kwargs, **PLAIN)


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    return learned("sampler.num_threads=1")


@pytest.mark.parametrize("threads", [2, 3])
def test_parameters_do_not_depend_on_the_number_of_threads(threads: int, reference: Any) -> None:
    assert exactly(learned(f"sampler.num_threads={threads}"), reference)


@pytest.mark.parametrize("vectorization", ["native", "sync", "async"])
def test_parameters_do_not_depend_on_the_vectorization(vectorization: str, reference: Any) -> None:
    assert exactly(learned(f"sampler.vectorization={vectorization}"), reference)


def test_a_mujoco_task_is_native_and_says_so() -> None:
    made = task("Hopper-v4").make(range(4), Parallelism(num_threads=3))
    assert isinstance(made.envs, MujocoBatch)
    assert made.how == "one MuJoCo batch, 3 threads"
    assert task("Hopper-v4").make(range(4), Parallelism(num_threads=1)).how == "one MuJoCo batch, 1 thread"


def test_a_cheap_step_is_taken_in_turn_and_a_dear_one_by_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trpo_cli.envs.make.cores", lambda: 2)
    made = task("CartPole-v1").make(range(2))
    assert "stepped in turn (not native: it is not a MuJoCo task of Gymnasium; " in made.how
    made.envs.close()
    made = task("Probe/Slow-v0", seconds=2 * WORKERS_PAY).make(range(2))
    assert "in 2 worker processes" in made.how
    made.envs.close()


def test_a_setting_that_is_not_native_is_played_by_gymnasium() -> None:
    made = task("Hopper-v4", render_mode="rgb_array").make(range(2), Parallelism("sync"))
    assert made.how == "stepped in turn (not native: render_mode=rgb_array)"
    made.envs.close()


def test_what_was_asked_for_is_said() -> None:
    made = task("Hopper-v4").make(range(2), Parallelism("sync"))
    assert made.how == "stepped in turn (as asked)"
    made.envs.close()


def test_native_where_it_cannot_be_is_an_error() -> None:
    with pytest.raises(
        ConfigError, match=r"sampler.vectorization: native is not for CartPole-v1: it is not a MuJoCo task"
    ):
        task("CartPole-v1").make(range(2), Parallelism("native"))


def test_workers_know_environments_that_only_this_process_registered() -> None:
    made = task("Probe/Constant-v0").make(range(2), Parallelism("async"))
    observation, _ = made.envs.reset(seed=[0, 1])
    assert np.abs(observation).tolist() == [[1.0], [1.0]]
    made.envs.close()


def test_an_environment_that_raises_when_it_is_timed_is_named() -> None:
    with pytest.raises(EnvironmentFault, match=r"^Probe/Faulty-v0 raised at step 4 of environment 0: RuntimeError"):
        task("Probe/Faulty-v0", fault="raise", after=3).make(range(2))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("algo", ["trpo", "ppo"])
def test_a_gpu_learns_what_a_cpu_learns(algo: str) -> None:
    small = (
        "env=Hopper-v4",
        f"algo={algo}",
        "sampler.num_envs=8",
        "sampler.steps_per_iteration=256",
        "algo.delta=1e-3",
    )
    overrides = small if algo == "trpo" else small[:-1]
    cpu, gpu = built(*overrides), built(*overrides, "device=cuda")
    rows = [parts.iterate(0.0).metrics for parts in (cpu, gpu)]
    assert rows[0]["policy/kl"] == pytest.approx(rows[1]["policy/kl"], rel=1e-2)
    for one, other in zip(cpu.policy.parameters(), gpu.policy.parameters(), strict=True):
        assert other.device.type == "cuda"
        torch.testing.assert_close(one, other.cpu(), atol=1e-3, rtol=1e-2)
    cpu.load_state_dict(gpu.state_dict())  # what a GPU learnt plays on a CPU
    assert on_cpu(cpu.policy) is cpu.policy
    observation, noise = np.zeros((2, 11), np.float32), np.ones((2, 3), np.float32)
    acted = [on_cpu(parts.policy).actor()(observation, NO_MEMORY, noise)[0] for parts in (cpu, gpu)]
    np.testing.assert_allclose(*acted, atol=1e-6)
