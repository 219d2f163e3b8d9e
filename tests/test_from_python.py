"""The package in Python: a run that was loaded acts and plays as `trpo-eval` does, and training leaves no trace."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command, after_rows, trained
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from gymnasium.vector.utils import iterate
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from test_acting import Counting

import trpo_cli
from trpo_cli.envs.joining import join
from trpo_cli.envs.normalize import ObservationNormalizer
from trpo_cli.play.episodes import STREAM
from trpo_cli.play.given import Given
from trpo_cli.seeding import environment_seeds

SMALL = ("env=Pendulum-v1", "total_steps=1_024", "sampler.num_envs=4", "sampler.steps_per_iteration=512")
SMALL = (*SMALL, "eval.every=0", "checkpoint.every=1")


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose observations are normalised, and whose actions are clipped."""
    return trained(tmp_path_factory.mktemp("pendulum"), *SMALL)


@pytest.fixture
def run(pendulum: Path) -> trpo_cli.LoadedRun:
    return trpo_cli.load(pendulum)


@pytest.mark.parametrize("sample", [False, True])
def test_it_plays_the_episodes_of_trpo_eval(
    run: trpo_cli.LoadedRun, trpo_eval: Command, tmp_path: Path, sample: bool
) -> None:
    words = ("--episodes", "3", "--seed", "2", "--json", "played.json", *["--sample"] * sample)
    assert trpo_eval(str(run.directory), *words).status == 0
    printed = json.loads((tmp_path / "played.json").read_text())[0]
    played = run.evaluate(episodes=3, seed=2, sample=sample)
    assert played.returns.tolist() == printed["returns"]
    assert played.lengths.tolist() == printed["lengths"]


def test_it_acts_step_by_step_as_in_an_evaluation(run: trpo_cli.LoadedRun) -> None:
    total, env = 0.0, run.make_env()
    observation, _ = env.reset(seed=environment_seeds(0, STREAM, 1)[0])
    for _ in range(200):
        action = run.act(observation)
        assert env.action_space.contains(action)
        observation, reward, _, truncated, _ = env.step(action)
        total += float(reward)
    env.close()
    assert truncated
    assert total == pytest.approx(run.evaluate(episodes=1).returns[0])


def test_a_batch_is_its_observations(run: trpo_cli.LoadedRun) -> None:
    batch = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    each = np.stack([run.act(one) for one in batch])
    assert run.act(batch) == pytest.approx(each, abs=1e-6)
    assert run.act(batch.tolist()) == pytest.approx(each, abs=1e-6)
    assert run.act(batch[:0]).shape == (0, 1)


def test_sampled_actions_come_from_the_generator(run: trpo_cli.LoadedRun) -> None:
    observation = np.zeros((2000, 3), np.float32)
    first = run.act(observation, sample=True)
    run.generator.manual_seed(1)
    second = run.act(observation, sample=True)
    run.generator.manual_seed(1)
    assert (run.act(observation, sample=True) == second).all()
    assert not (first == second).all()
    assert np.abs(first).max() == 2  # they are clipped
    assert np.median(first) == pytest.approx(run.act(observation)[0, 0], abs=0.1)


def test_a_memory_is_passed_from_step_to_step(pendulum: Path) -> None:
    run = trpo_cli.load(pendulum)
    counting = run.trained._replace(policy=Counting(run.trained.policy))
    run = trpo_cli.LoadedRun(pendulum, counting)
    observation, memory, found = np.zeros(3), None, []
    for _ in range(3):
        action, memory = run.step(observation, memory)
        found.append(float(action[0]))
    assert found == [0, 1, 2]
    _, both = run.step([observation, observation], [[2], [0]])
    assert both.tolist() == [[3], [1]]
    with pytest.raises(trpo_cli.UserError, match=r"step\(observation, memory\) passes that on"):
        run.act(observation)
    with pytest.raises(trpo_cli.UserError, match=r"memory: has shape \(2, 1\); for these observations it has \(1,\)"):
        run.step(observation, both)


BOX, STATES = spaces.Box(-1.0, 1.0, (2,)), spaces.Discrete(4, start=1)
REFUSED: list[tuple[Any, Any, str]] = [
    (BOX, [1, 2, 3], r"has shape \(3,\); one has \(2,\), and a batch of N has \(N, 2\)"),
    (BOX, [[1, 2], [3]], "NumPy cannot convert it to an array"),
    (BOX, {"a": 1}, "got dict, which holds no numbers"),
    (STATES, 0, "got 0; a state is a number from 1 to 4"),
    (STATES, [1, 5], r"got \[1, 5\]; a state is a number from 1 to 4"),
    (STATES, 1.5, "holds numbers that int64 cannot represent"),
    (STATES, [[1]], r"has shape \(1, 1\); one has \(\), and a batch of N has \(N,\)"),
]


@pytest.mark.parametrize(("space", "given", "message"), REFUSED)
def test_what_is_no_observation_is_refused(space: Any, given: Any, message: str) -> None:
    with pytest.raises(trpo_cli.UserError, match=f"observation: {message}"):
        Given(space)(given)


def test_the_shape_tells_one_from_a_batch(run: trpo_cli.LoadedRun) -> None:
    for space, one, several in ((BOX, [1, 2], [[1, 2]]), (STATES, np.int32(3), [3, 4]), (STATES, True, (True,))):
        (first, is_single), (rest, is_one) = Given(space)(one), Given(space)(several)
        assert (is_single, is_one) == (True, False)
        assert first.shape[1:] == rest.shape[1:] == space.shape
    for value in (np.nan, np.inf):
        with pytest.raises(trpo_cli.UserError, match="observation: is not finite"):
            run.act([[0, 0, 0], [0, value, 0]])


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on observations of several entries."""
    words = ("plugins=[probes]", "env=gym", "env.id=Probe/Several-v0", *SMALL[1:], "env.hide=[choice]")
    return trained(tmp_path_factory.mktemp("several"), *words, "policy=multi_input", "env.normalize_observation=true")


def test_observations_of_several_entries(several: Path) -> None:
    """One as an environment gives it, and a batch as vector environments do."""
    run = trpo_cli.load(several, plugins=["probes"])
    assert isinstance(run.observation_space, spaces.Dict)
    envs = SyncVectorEnv([run.make_env] * 5)
    batch, _ = envs.reset(seed=0)
    each = list(iterate(envs.observation_space, batch))
    assert run.act(batch).tolist() == [run.act(one) for one in each]
    assert run.act({**batch, "inner": [half.tolist() for half in batch["inner"]]}).tolist() == run.act(batch).tolist()
    envs.step(run.act(batch, sample=True))
    envs.close()
    empty = {name: batch[name][:0] for name in ("choice", "image", "number")}
    assert run.act({**empty, "inner": tuple(half[:0] for half in batch["inner"])}).shape == (0,)

    refused = {
        "'number' of the observation does not match its space: it has shape (3,); one has (1,), and a batch": [1, 2, 3],
        "'number' of the observation is not finite: [nan]": [np.nan],
        "'number' of the observation does not match its space: it holds something other than numbers": ["x"],
        "'number' of the observation does not match its space: NumPy cannot convert it": [[1], [2, 3]],
        "'choice' is a single value, but entry 'number' is a batch of 2": [[1], [2]],
    }
    for message, number in refused.items():
        with pytest.raises(trpo_cli.UserError, match=re.escape(message)):
            run.act({**each[0], "number": number})
    for given in (None, each, {"number": [1]}):
        with pytest.raises(trpo_cli.UserError, match=r"observation does not match its space: it (is not a|has no )"):
            run.act(given)
    with pytest.raises(trpo_cli.UserError, match=r"'choice' .* it is not in the range from 3 to 4\n.*; given: 5"):
        run.act({**batch, "choice": [3, 3, 4, 3, 5]})


def test_other_joined_observations() -> None:
    """A tuple of arrays is a batch, and so are rows of choices."""
    pair = Given(join(spaces.Tuple((spaces.Discrete(2), spaces.Box(-9, 9, (2,))))))
    assert [pair((1, [5, 6]))[0].tolist(), pair((1, [5, 6]))[1]] == [[[0, 1, 5, 6]], True]
    batch, is_single = pair(([1, 0], [[5, 6], [7, 8]]))
    assert (batch.tolist(), is_single) == ([[0, 1, 5, 6], [1, 0, 7, 8]], False)
    choices = Given(join(spaces.MultiDiscrete([2, 3], start=[1, 0])))
    assert [choices([2, 2])[0].tolist(), choices([2, 2])[1]] == [[[0, 1, 0, 0, 1]], True]
    assert [choices([[2, 2]])[0].tolist(), choices([[2, 2]])[1]] == [[[0, 1, 0, 0, 1]], False]
    with pytest.raises(trpo_cli.UserError, match=r"observation does not match its space: it has shape \(3,\); one has"):
        choices([1, 1, 1])
    with pytest.raises(trpo_cli.UserError, match="observation does not match its space: it holds numbers outside"):
        choices([[1, 1], [3, 0]])


def test_a_stack_is_a_memory(trpo_train: Command, tmp_path: Path) -> None:
    """The run plays as in an evaluation, and a row of zeros begins an episode in a batch."""
    assert trpo_train("env=CartPole-v1", *SMALL[1:], "env.stack=3", "env.hide=[1,3]", "hydra.run.dir=run").status == 0
    run = trpo_cli.load(tmp_path / "run")
    with pytest.raises(trpo_cli.UserError, match=r"act: this policy sees 3 observations at once; step\(observation, m"):
        run.act(np.zeros(4))
    with run.make_env() as env:
        observation, memory, steps, ended = env.reset(seed=environment_seeds(0, STREAM, 1)[0])[0], None, 0, False
        while not ended:
            action, memory = run.step(observation, memory)
            observation, _, terminated, truncated, _ = env.step(action)
            steps, ended = steps + 1, terminated or truncated
    assert steps == run.evaluate(episodes=1).lengths[0]

    stacks = np.arange(24.0).reshape(3, 2, 4)  # (T, N, ...)
    _, memory = run.step(stacks[0])
    _, memory = run.step(stacks[1], memory)
    memory[1] = 0
    _, memory = run.step(stacks[2], memory)
    assert memory[:, 1:].reshape(2, 3, 2)[..., 0].tolist() == [[0, 8, 16], [20, 20, 20]]
    for given, message in (("x", "should be what the last step returned"), (memory * np.nan, "is not finite")):
        with pytest.raises(trpo_cli.UserError, match=f"memory: {message}"):
            run.step(stacks[0], given)


def test_rescaled_actions(trpo_train: Command, tmp_path: Path) -> None:
    words = ("plugins=[probes]", "env=gym", "env.id=Probe/Wide-v0", *SMALL[1:], "hydra.run.dir=run")
    assert trpo_train(*words).status == 0
    run = trpo_cli.load(tmp_path / "run", plugins=["probes"])
    actions = run.act(np.zeros((1000, *run.observation_space.shape)), sample=True)  # type: ignore[misc]
    assert actions.min() == run.action_space.low  # type: ignore[attr-defined]
    assert actions.max() == run.action_space.high  # type: ignore[attr-defined]


def test_what_a_run_knows(run: trpo_cli.LoadedRun, pendulum: Path) -> None:
    assert (run.config["env"]["id"], run.config["total_steps"], run.env_steps) == ("Pendulum-v1", 1024, 1024)
    assert run.summary is not None
    assert run.summary["env_steps"] == 1024
    assert run.metrics["env_steps"].tolist() == [512, 1024]
    assert np.isnan(run.metrics["eval/episode_return_mean"]).all()
    assert repr(run) == f"<LoadedRun {pendulum}: trpo on Pendulum-v1, seed 0, 1,024 steps>"
    assert trpo_cli.load(str(pendulum), checkpoint=512).env_steps == 512
    with pytest.raises(trpo_cli.UserError, match="episodes: got 0; it should be greater than"):
        run.evaluate(episodes=0)
    with pytest.raises(trpo_cli.UserError, match="checkpoint: got 'bst'; it should be 'newest', 'best', or a number"):
        trpo_cli.load(pendulum, checkpoint="bst")
    with pytest.raises(trpo_cli.UserError, match="holds no checkpoint of step 7; available steps: 0, 512, 1024"):
        trpo_cli.load(pendulum, checkpoint=7)


def test_training_is_that_of_the_command(pendulum: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the main thread, inside a running event loop, and in another thread."""
    monkeypatch.chdir(tmp_path)
    made: list[Any] = []

    def train(place: str) -> None:
        made.append(trpo_cli.train([*SMALL, f"hydra.run.dir={place}"]))

    async def in_loop() -> None:
        train("loop")

    train("main")
    asyncio.run(in_loop())
    thread = threading.Thread(target=train, args=("thread",))
    thread.start()
    thread.join()
    wanted = trpo_cli.load(pendulum)
    for run, place in zip(made, ("main", "loop", "thread"), strict=True):
        assert run.directory == tmp_path / place
        assert run.config == wanted.config
        for name, value in wanted.policy.state_dict().items():
            assert torch.equal(run.policy.state_dict()[name], value)


def test_a_run_is_resumed_as_by_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = trpo_cli.train([*SMALL, "total_steps=512", "resume=auto"])
    again = trpo_cli.train([*SMALL, "total_steps=1e3", "resume=auto"])
    assert first.directory == again.directory
    assert "auto_" in first.directory.name
    assert again.env_steps == 1024
    assert trpo_cli.train([f"resume={first.directory}"]).env_steps == 1024  # it is finished


MISTAKES = {
    ("algo=trop",): "algo: no option 'trop'; did you mean 'trpo'?",
    ("seed=x",): "seed: got 'x'; it should be a valid integer",
    ("seed=0,1",): "seed: got several values",
    ("-m", "seed=0,1"): "-m: is an option of the command line: one call trains one run, and trpo-train -m runs a sweep",
    ("hydra.job.chdir=true",): "hydra.job.chdir: takes effect only with the command trpo-train",
    ("experiment=npg_multiplier",): "this experiment is a sweep, but one call trains one run; trpo-train runs it",
    ("critic.hidden_sizes=[0]",): "critic.hidden_sizes[0]: got [0]; it should be greater than",
}


@pytest.mark.parametrize("arguments", MISTAKES)
def test_mistakes_are_exceptions(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(trpo_cli.UserError) as caught:
        trpo_cli.train(["env=CartPole-v1", *arguments])
    assert MISTAKES[arguments] in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_what_is_no_list_of_arguments_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for given in ("algo=trpo", None, 5, ["algo=trpo", 5]):
        with pytest.raises(trpo_cli.UserError, match=r"arguments: got .*; it should be a list of overrides"):
            trpo_cli.train(given)  # type: ignore[arg-type]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(trpo_cli.UserError, match="--config-dir: there is no directory env=CartPole-v1"):
        trpo_cli.train(["--config-dir", "env=CartPole-v1"])
    with pytest.raises(trpo_cli.UserError, match="algo: no option 'trop'"):
        trpo_cli.train(word for word in ["algo=trop"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"run": None}, "run: got None; it should be the path of a run directory"),
        ({"checkpoint": []}, "checkpoint: got []; it should be 'newest', 'best', or a number"),
        ({"checkpoint": True}, "checkpoint: got True"),
        ({"plugins": None}, "plugins: got None; it should be a list of modules: ['my_package']"),
        ({"plugins": [5]}, "plugins: got [5]; it should be a list of modules"),
        ({"plugins": "probes"}, "plugins: got 'probes'; it should be a list of modules"),
    ],
)
def test_what_names_no_run_is_refused(pendulum: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(trpo_cli.UserError, match=re.escape(said)):
        trpo_cli.load(**{"run": pendulum, **given})


@pytest.mark.parametrize("mistake", [(), ("algo.delta=-1",)])
def test_the_process_stays_as_it_was(mistake: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(2)

    def look() -> list[Any]:
        generators = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index,union-attr]
        log = logging.getLogger("trpo_cli")
        handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
        plugins = Plugins.instance()
        lists = {kind: list(found) for kind, found in plugins.plugin_type_to_subclass_list.items()}
        hydra = {kind: id(one) for kind, one in Singleton._instances.items()}, lists, SourcesRegistry.instance().types
        return [generators, log.level, log.handlers, handlers, hydra, sys.argv, Path.cwd(), torch.get_num_threads()]

    try:
        before = look()
        try:
            trpo_cli.train([*SMALL, *mistake, "hydra.run.dir=run"])
        except trpo_cli.UserError:
            assert mistake
        assert look() == before
    finally:
        torch.set_num_threads(1)


def test_ctrl_c_leaves_a_checkpoint_and_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    after_rows(monkeypatch, 1, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        trpo_cli.train([*SMALL, "checkpoint.every=100", "hydra.run.dir=run"])
    assert trpo_cli.load("run").env_steps == 512
    assert trpo_cli.load("run").summary is None
    assert trpo_cli.train(["resume=run"]).env_steps == 1024


def test_two_at_once_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found: list[str] = []

    def try_another() -> None:
        with pytest.raises(trpo_cli.UserError) as caught:
            trpo_cli.train([*SMALL, "hydra.run.dir=other"])
        found.append(str(caught.value))

    after_rows(monkeypatch, 1, try_another)
    trpo_cli.train([*SMALL, "hydra.run.dir=run"])
    assert found == ["a run is being trained in this process; wait for its end, or start trpo-train beside it"]


SCRIPT = """
import gymnasium
import trpo_cli
from gymnasium.envs.classic_control import CartPoleEnv


class Mine(CartPoleEnv):
    pass


gymnasium.register("Mine-v0", Mine, max_episode_steps=20)
words = ["env=gym", "env.id=Mine-v0", "total_steps=64", "sampler.num_envs=2", "sampler.steps_per_iteration=64"]
run = trpo_cli.train([*words, "sampler.vectorization=async", "hydra.run.dir=run"])
print(run.evaluate(1).lengths)
"""


@pytest.mark.slow
def test_a_script_needs_no_guard_against_its_worker_processes(tmp_path: Path) -> None:
    """They receive environments that it defines itself, and do not run it again."""
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n[20]\n")


def test_the_package_imports_neither_torch_nor_hydra() -> None:
    code = "import sys, trpo_cli; print(sorted({'torch', 'hydra', 'numpy', 'gymnasium'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert {*trpo_cli.__all__} <= {*dir(trpo_cli)}
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        trpo_cli.lod  # noqa: B018


def test_statistics_stay_fixed(run: trpo_cli.LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def learn(self: ObservationNormalizer, observation: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(ObservationNormalizer, "update", learn)
    observation = np.ones(3, np.float32)
    first = run.act(observation)
    run.evaluate(episodes=1)
    assert run.act(observation) == first
