"""Environments that draw from the generators that all code of a process shares: their runs follow from the seed too."""

from __future__ import annotations

import contextlib
import copy
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import probes  # noqa: F401  registers the probe environments
import pytest
import torch
from comparison import assert_same_run, rows, saved
from conftest import Command, after_rows, built
from exactness import exactly

from trpo_cli.envs.environments import Environments
from trpo_cli.envs.global_generators import changed_states, current_states
from trpo_cli.envs.make import Parallelism, Task
from trpo_cli.errors import CheckpointError, ConfigError
from trpo_cli.seeding import isolate_globals, seed_globals

SMALL = ("sampler.num_envs=2", "sampler.steps_per_iteration=64", "total_steps=256", "checkpoint.every=1")
CHANCE = ("plugins=[probes]", "env=Probe/Chance-v0", *SMALL, "eval.every=128", "eval.episodes=2")
BOTH = pytest.mark.parametrize("how", ["sync", "async"])


def environments(how: Any, env_id: str = "Probe/Chance-v0", seeds: tuple[int, ...] = (0, 1, 2)) -> Environments:
    task = Task(env_id, {}, None, False, False, 10.0, 10.0)
    return Environments(task, len(seeds), list(seeds), Parallelism(how))


def future(envs: Environments, steps: int = 7) -> list[Any]:
    """What the environments show and pay from now on."""
    seen = []
    for _ in range(steps):
        observation, reward, _, truncated = envs.step(np.zeros((envs.num_envs, 1), dtype=np.int64))
        seen.append((observation.copy(), reward))
        if truncated.any():
            seen.append(envs.restart(truncated).copy())
    return seen


def draw() -> list[float]:
    return [random.random(), np.random.random(), float(torch.rand(()))]


def test_the_generators_of_a_process_differ() -> None:
    """Python's and NumPy's are of one kind, and would give the same numbers if one were seeded as the other is."""
    seed_globals(0, "a stream")
    first = draw()
    assert len(set(np.round(first, 5))) == 3
    seed_globals(0, "another")
    assert draw() != first
    seed_globals(0, "a stream")
    assert draw() == first


def test_what_is_done_apart_leaves_no_trace() -> None:
    seed_globals(3, "a stream")
    expected = draw()
    seed_globals(3, "a stream")
    with contextlib.suppress(ZeroDivisionError), isolate_globals(0, "another"):
        draw()
        raise ZeroDivisionError
    assert draw() == expected


def test_which_generators_were_drawn_from() -> None:
    before = current_states()
    assert changed_states(before) == {}
    np.random.normal(size=312)  # comes back to the same place among numbers drawn in advance
    assert list(changed_states(before)) == ["numpy.random"]
    draw()
    assert list(changed_states(before)) == ["random", "numpy.random", "torch"]


@BOTH
def test_one_seed_is_one_run(trpo_train: Command, tmp_path: Path, how: str) -> None:
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        done = trpo_train(*CHANCE, f"sampler.vectorization={how}", f"seed={seed}", f"hydra.run.dir={name}")
        assert done.status == 0, done.err
        draw()
    assert_same_run(tmp_path / "one", tmp_path / "same")
    assert rows(tmp_path / "one") != rows(tmp_path / "other")


@BOTH
def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    chance = (*CHANCE, f"sampler.vectorization={how}")
    assert trpo_train(*chance, "hydra.run.dir=whole").status == 0
    with monkeypatch.context() as patch:
        after_rows(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert trpo_train(*chance, "hydra.run.dir=parts").status == 143
    assert trpo_train("resume=parts", "plugins=[probes]").status == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_evaluations_draw_nothing_from_the_run(trpo_train: Command, tmp_path: Path) -> None:
    for every in (0, 64):
        assert trpo_train(*CHANCE, f"eval.every={every}", f"hydra.run.dir=every{every}").status == 0
    never, often = saved(tmp_path / "every0"), saved(tmp_path / "every64")
    for part in ("policy", "environments", "generators"):
        assert exactly(never[part], often[part])


@pytest.mark.parametrize("how", ["sync", "auto"])
def test_a_trial_of_the_environment_draws_nothing_from_the_run(how: str) -> None:
    """It is stepped to find out how long a step takes, on several cores."""
    found = []
    for _ in range(2):
        parts = built("env=gym", "env.id=Probe/Chance-v0", *SMALL, f"sampler.vectorization={how}")
        found.append(parts.environments[0].observation)
    plain = built("env=gym", "env.id=Probe/Chance-v0", *SMALL, "sampler.vectorization=sync")
    assert exactly(found, [plain.environments[0].observation] * 2)


def test_workers_draw_numbers_of_their_own() -> None:
    envs = environments("async")
    first, seen = envs.observation.copy(), future(envs)
    numbers = np.array([reward for _, reward in seen[:5]])
    assert len(np.unique(first)) == 3
    assert len(np.unique(numbers)) == numbers.size
    envs.rebuild([0, 1, 2])
    assert exactly([envs.observation, *future(envs)], [first, *seen])
    envs.rebuild([3, 4, 5])
    assert not np.isin(np.array([reward for _, reward in future(envs)[:5]]), numbers).any()
    envs.close()


def test_a_module_that_draws_as_it_is_imported(
    trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lucky.py").write_text(
        "import random, gymnasium, probes\nPAY = random.random()\n"
        "class Lucky(probes.Constant):\n    def reward(self, action): return PAY\n"
        "gymnasium.register('Lucky-v0', entry_point=Lucky)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(os.environ, "PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path(__file__).parent)]))
    lucky = ("plugins=[lucky]", "env=Lucky-v0", *SMALL, "eval.every=0", "sampler.vectorization=async")
    for name in ("one", "same"):
        done = trpo_train(*lucky, f"hydra.run.dir={name}")
        assert done.status == 0, done.err
    assert_same_run(tmp_path / "one", tmp_path / "same")


def test_candidates_in_workers_meet_the_same_luck() -> None:
    parts = built("algo=cem", "env=gym", "env.id=Probe/Chance-v0", "sampler.num_envs=2", "sampler.vectorization=async")
    sampler: Any = parts.sampler
    theta = torch.zeros(torch.nn.utils.parameters_to_vector(parts.policy.parameters()).shape)  # acts alike everywhere
    returns = sampler.play(parts.policy, theta.expand(5, -1))
    assert len(returns.unique()) == 1
    assert sampler.play(parts.policy, theta[None]) != returns[0]
    parts.close()


def test_an_evaluation_follows_from_its_seed(trpo_train: Command, trpo_eval: Command, tmp_path: Path) -> None:
    assert trpo_train(*CHANCE, "hydra.run.dir=run").status == 0
    asked = ("run", "--plugins", "probes", "--episodes", "3", "--seed")
    one = trpo_eval(*asked, "1", "--video", "one.mp4")
    assert one.out == trpo_eval(*asked, "1", "--video", "same.mp4").out.replace("same.mp4", "one.mp4")
    assert one.out != trpo_eval(*asked, "2", "--video", "other.mp4").out.replace("other.mp4", "one.mp4")
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "same.mp4").read_bytes()


def test_the_vine_refuses_steps_that_draw_from_what_all_share() -> None:
    vine = ("sampler=vine", "sampler.num_states=4", "sampler.branch_length=4")
    parts = built("env=gym", "env.id=Probe/Chance-v0", *vine)
    sampler: Any = parts.sampler
    with pytest.raises(ConfigError, match=r"cannot: its steps draw from random and numpy\.random and torch, whose"):
        sampler.collect(parts.policy)


def test_what_a_worker_keeps() -> None:
    """Of generators that nobody drew from, no more than the seed; earlier versions did not keep that either."""
    quiet = environments("async", "Probe/Constant-v0")
    state = quiet.state_dict()
    assert [one["globals"] for one in state["envs"]] == [{"seed": seed, "drawn": {}} for seed in range(3)]
    for one in state["envs"]:
        del one["globals"]
    quiet.load_state_dict(state)
    quiet.close()
    noisy = environments("async")
    future(noisy)
    assert list(noisy.state_dict()["envs"][1]["globals"]["drawn"]) == ["random", "numpy.random", "torch"]
    noisy.close()


def test_a_worker_goes_on_where_another_was() -> None:
    envs, others = environments("async"), environments("async", seeds=(7, 8, 9))
    future(envs)
    state = envs.state_dict()
    expected = future(envs)
    others.load_state_dict(state)
    assert exactly(future(others), expected)
    envs.load_state_dict(state)
    assert exactly(future(envs), expected)
    envs.close()
    others.close()


def test_sharing_a_process_is_no_exact_resume(caplog: pytest.LogCaptureFixture) -> None:
    for env_id, said in (("Probe/Constant-v0", 0), ("Probe/Chance-v0", 1)):
        workers, in_turn = environments("async", env_id), environments("sync", env_id)
        in_turn.load_state_dict(workers.state_dict())
        assert caplog.text.count("this resume is not exact") == said
        workers.close()


@pytest.fixture(scope="module")
def noisy_state() -> Any:
    envs = environments("async")
    future(envs)
    state = envs.state_dict()
    envs.close()
    return state


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda kept: kept.clear(), "the seed or the states"),
        (lambda kept: kept.update(seed=-1), "a worker's seed is -1"),
        (lambda kept: kept.update(seed="0"), "a worker's seed is '0'"),
        (lambda kept: kept.update(drawn=[]), "the seed or the states"),
        (lambda kept: kept["drawn"].update(secrets={}), "generator 'secrets'"),
        (lambda kept: kept["drawn"].update(torch=np.zeros(5056, np.uint8)), "generator 'torch'"),
        (lambda kept: kept["drawn"].update(torch=b""), "generator 'torch'"),
        (lambda kept: kept["drawn"].update(random=kept["drawn"]["numpy.random"]), "generator 'random'"),
        (lambda kept: kept["drawn"]["numpy.random"]["state"].update(pos=10**6), "generator 'numpy.random'"),
    ],
)
def test_a_strangers_state_is_refused(spoil: Callable[[dict[str, Any]], Any], said: str, noisy_state: Any) -> None:
    state = copy.deepcopy(noisy_state)
    spoil(state["envs"][0]["globals"])
    envs = environments("sync")
    with pytest.raises(CheckpointError, match=said):
        envs.load_state_dict(state)
    envs.close()
