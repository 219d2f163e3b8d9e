"""Wrappers by configuration: around every environment of a run, saved with it, and never code that nobody allowed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from comparison import rows
from conftest import Command, built
from exactness import exactly
from gymnasium.wrappers import ClipReward, DelayObservation, TimeAwareObservation
from probes import Remembering
from test_snapshot import plain

from trpo_cli.envs.environments import Environments
from trpo_cli.envs.make import Parallelism, Task
from trpo_cli.envs.wrappers import REFUSED, Wrappers
from trpo_cli.errors import ConfigError


def read(*entries: Any, plugins: tuple[str, ...] = ("probes",)) -> Wrappers:
    return Wrappers.from_node(list(entries), "env.wrappers", plugins)


def task(*entries: Any, env_id: str = "Pendulum-v1") -> Task:
    return Task(env_id, {}, 20, False, False, 10.0, 10.0, wrappers=read(*entries))


CLIP = {"ClipReward": {"max_reward": 5, "min_reward": -2.0}}
OWN = {"probes.Remembering": {"k": 3, "scale": 0.5}}


def test_wrappers_are_put_on_from_the_inside_out() -> None:
    env: Any = task("gymnasium.wrappers.TimeAwareObservation", CLIP, OWN).make_one()
    assert isinstance(env, Remembering)
    assert (env.scale, env.last.maxlen) == (0.5, 3)
    assert type(env.env) is ClipReward
    assert type(env.env.env) is TimeAwareObservation
    assert env.observation_space.shape == (4,)
    env.close()


def test_a_list_is_what_the_argument_asks_for() -> None:
    sticky = {"StickyAction": {"repeat_action_probability": 0, "repeat_action_duration": [2, 3.0]}}
    rescaled = {"RescaleAction": {"min_action": [-1.0], "max_action": 1.0}}
    layers = read(sticky, rescaled, {"DelayObservation": {"delay": 3.0}}).layers
    assert layers[0].arguments == {"repeat_action_probability": 0.0, "repeat_action_duration": (2, 3)}
    assert type(layers[1].arguments["min_action"]) is np.ndarray
    assert layers[2] == (DelayObservation, {"delay": 3}, "env.wrappers[2]")
    assert type(layers[2].arguments["delay"]) is int


MISTAKES: list[tuple[Any, str]] = [
    (
        "TimeAwareObservaton",
        "env.wrappers[0]: Gymnasium has no wrapper 'TimeAwareObservaton'; did you mean 'TimeAwareObs",
    ),
    (
        "Remembering",
        "one of your own is named with its package: env.wrappers=[my_package.MyWrapper] plugins=[my_package]",
    ),
    ("vector.RescaleAction", "'vector.RescaleAction' is not in a package that parts are built from"),
    ("gymnasium.wrappers.vector.RescaleAction", "no wrapper 'vector.RescaleAction'; did you mean 'RescaleAction'?"),
    (
        "os.system",
        "env.wrappers[0]: 'os.system' is not in a package that parts are built from\nif you trust that package",
    ),
    ("probes.deque", "'probes.deque' is not a public class or function of its package"),
    ("probes.Wide", "env.wrappers[0]: 'probes.Wide' is no gymnasium.Wrapper"),
    ("probes.Absent", "'probes.Absent' cannot be found"),
    (".Remembering", "env.wrappers[0]: '.Remembering' is no name of a class or function with its package: PACKAGE."),
    (3, "env.wrappers[0]: got 3; it should be NAME or {NAME: {ARGUMENT: VALUE}}"),
    (["ClipAction"], "env.wrappers[0]: got ['ClipAction']; it should be NAME or {NAME: {ARGUMENT: VALUE}}"),
    ({"ClipAction": {}, "RescaleAction": {}}, "it should be NAME or {NAME: {ARGUMENT: VALUE}}"),
    ({"DelayObservation": 3}, "got {'DelayObservation': 3}; it should be NAME or {NAME: {ARGUMENT: VALUE}}"),
    (
        {"DelayObservation": {"dela": 3}},
        "env.wrappers[0].dela: no such argument of DelayObservation; did you mean 'delay'?",
    ),
    ({"ClipAction": {"low": 3}}, "env.wrappers[0].low: no such argument of ClipAction; it takes none"),
    ({"DelayObservation": {"delay": 0.5}}, "env.wrappers[0].delay: got 0.5; it should be a valid integer"),
    ("DelayObservation", "env.wrappers[0]: DelayObservation needs delay: {DelayObservation: {delay: VALUE}}"),
    ({"probes.Remembering": {"k": "a"}}, "env.wrappers[0].k: got 'a'; it should be a valid integer"),
    ({"probes.Remembering": {"env": 1}}, "env.wrappers[0].env: no such argument of Remembering"),
    (
        {"TransformReward": {"func": "abs"}},
        "TransformReward has no place here: it takes a function, which no configuration",
    ),
    ("NormalizeObservation", "env.normalize_observation=true shares them"),
    ("RecordVideo", "env.wrappers[0]: RecordVideo has no place here: trpo-eval RUN --video FILE.mp4 films episodes"),
]


@pytest.mark.parametrize(("entry", "said"), MISTAKES, ids=lambda value: str(value)[:40])
def test_what_is_no_wrapper_is_refused(entry: Any, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(entry)
    assert said in str(refused.value)


def test_a_wrapper_that_does_not_fit_is_told_and_closes_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []
    monkeypatch.setattr(gymnasium.Wrapper, "close", lambda self: closed.append(True))
    with pytest.raises(ConfigError, match=r"^env.wrappers\[1\]: FilterObservation with .* does not fit: ValueError: "):
        task("TimeAwareObservation", {"FilterObservation": {"filter_keys": [0]}}).make_one()
    assert closed


def test_a_wrapper_that_makes_no_environment_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Nothing does not fit: TypeError: it makes no environment but 5 \(int\)"):
        task("probes.Nothing").make_one()


@pytest.mark.parametrize("hint", ["np.nothing", "1+", "np.ndarray|None[3]", "Absent", [int]])
def test_an_annotation_that_means_nothing_checks_nothing(hint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Remembering.__init__.__annotations__, "k", hint)
    assert read({"probes.Remembering": {"k": 3}}).layers[0].arguments == {"k": 3}


def test_every_wrapper_of_gymnasium_is_known_or_refused() -> None:
    pixels = ("AddRenderObservation", "AtariPreprocessing", "GrayscaleObservation", "ObstructView", "ResizeObservation")
    observations = ("AddWhiteNoise", "Delay", "Discretize", "Filter", "Flatten", "FrameStack", "MaxAndSkip", "Rescale")
    observations += ("Reshape", "TimeAware")
    known = {
        name if name.startswith("Add") else f"{name}Observation" for name in (*observations, "Reshape", "TimeAware")
    }
    known |= {
        "ClipAction",
        "ClipReward",
        "DiscretizeAction",
        "JaxToNumpy",
        "RepeatAction",
        "RescaleAction",
        "StickyAction",
    }
    assert {*pixels, *known, *REFUSED} == set(gymnasium.wrappers.__all__) - {"vector"}


FITTING: list[Any] = [
    *("FlattenObservation", "TimeAwareObservation", "ClipAction", CLIP, OWN),
    {"DelayObservation": {"delay": 2}},
    {"FrameStackObservation": {"stack_size": 3}},
    {"MaxAndSkipObservation": {"skip": 2}},
    {"RescaleObservation": {"min_obs": -1.0, "max_obs": 1.0}},
    {"ReshapeObservation": {"shape": [3, 1]}},
    {"DiscretizeObservation": {"bins": 3}},
    {"DiscretizeAction": {"bins": 3}},
    {"RescaleAction": {"min_action": -3.0, "max_action": 3.0}},
    {"StickyAction": {"repeat_action_probability": 0.3}},
    {"RepeatAction": {"num_repeats": 2}},
]


def play(envs: Environments, steps: int, seed: int = 5) -> list[Any]:
    rng, seen = np.random.default_rng(seed), []
    for _ in range(steps):
        action = rng.normal(size=(2, 1)) if envs.distribution.network_size == 1 else rng.integers(3, size=(2, 1))
        observation, reward, terminated, truncated = envs.step(action)
        seen.append((observation.copy(), reward, terminated, truncated))
        if (ended := terminated | truncated).any():
            envs.restart(ended)
    return seen


@pytest.mark.parametrize("entry", FITTING, ids=lambda entry: entry if isinstance(entry, str) else next(iter(entry)))
def test_a_wrapped_environment_goes_on_from_a_file_and_takes_branches(entry: Any) -> None:
    envs, other = (Environments(task(entry), 2, [seed, seed + 1], Parallelism("sync")) for seed in (0, 7))
    assert envs.snapshot_obstacle() is envs.resume_obstacle() is None
    play(envs, 13, seed=1)
    state, aside = envs.state_dict(), envs.save(np.arange(2))
    assert plain(state)
    kept, expected = copy.deepcopy(state), play(envs, 40)
    play(other, 5, seed=2)
    other.load_state_dict(kept)
    assert exactly(play(other, 40), expected)
    other.restore(np.arange(2), aside)
    assert exactly(play(other, 40), expected)
    envs.close()
    other.close()


def test_workers_wrap_alike() -> None:
    made = [
        Environments(task("TimeAwareObservation", OWN), 2, [0, 1], Parallelism(kind))  # type: ignore[arg-type]
        for kind in ("sync", "async")
    ]
    assert exactly(*(play(envs, 30) for envs in made))
    made[1].load_state_dict(made[0].state_dict())
    assert exactly(*(play(envs, 30) for envs in made))
    for envs in made:
        envs.close()


def test_a_wrapped_mujoco_task_is_not_native_and_says_so() -> None:
    made = task("TimeAwareObservation", env_id="Hopper-v4").make(range(2), Parallelism("auto", in_process=True))
    assert made.how == "stepped in turn (not native: it is wrapped in TimeAwareObservation)"
    made.envs.close()
    with pytest.raises(ConfigError, match="native is not for Hopper-v4: it is wrapped in Remembering"):
        task("probes.Remembering", env_id="Hopper-v4").make(range(2), Parallelism("native"))


class Longer(gymnasium.wrappers.TimeLimit):
    """A kind of time limit."""


def test_a_wrapper_derived_from_one_that_the_batch_knows_is_still_a_wrapper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gymnasium.envs.registration, "TimeLimit", Longer, raising=False)
    monkeypatch.setattr(gymnasium.wrappers, "TimeLimit", Longer)
    made = task(env_id="Hopper-v4").make(range(2), Parallelism("sync"))
    assert made.how == "stepped in turn (not native: it is wrapped in Longer)"
    made.envs.close()


def test_branches_of_a_vine_leave_from_wrapped_and_stacked_states() -> None:
    wrapped = ("plugins=[probes]", "env.wrappers=[{DelayObservation: {delay: 2}}, probes.Remembering]", "env.stack=3")
    small = (
        "sampler.num_envs=4",
        "sampler.num_states=6",
        "sampler.branch_length=20",
        "sampler.steps_per_iteration=1000",
    )
    parts = built("env=CartPole-v1", "sampler=vine", *small, *wrapped)
    sampler: Any = parts.sampler
    (envs,) = parts.environments
    restore, begun = envs.restore, []

    def restoring(rows: Any, saved: Any) -> None:
        restore(rows, saved)
        begun.extend(envs.observation[rows].astype(np.float32))

    envs.restore = restoring  # type: ignore[method-assign]
    (first,) = sampler.collect(parts.policy)
    chosen = first.trunk.observation.flatten(0, 1)[first.place].numpy()
    assert chosen.shape == (6, 3, 4)
    for seen in begun[:-4]:  # the last ones are where the trunks go on
        assert (chosen == seen).all((1, 2)).any()
    (second,) = sampler.collect(parts.policy)
    assert (second.trunk.observation[0] == first.trunk.last_observation).all()  # the trunks go on
    parts.close()


def test_a_run_with_ones_own_wrapper_is_played_only_where_its_package_is_allowed(
    trpo_train: Command, trpo_eval: Command, tmp_path: Path
) -> None:
    small = (
        "sampler.num_envs=2",
        "sampler.steps_per_iteration=64",
        "total_steps=128",
        "eval.every=64",
        "eval.episodes=2",
    )
    wrapped = ("env=Probe/Painted-v0", "env.wrappers=[{probes.Remembering:{k:3}}]", *small, "hydra.run.dir=run")
    done = trpo_train(*wrapped, "plugins=[probes]")
    assert done.status == 0, done.err
    assert rows(tmp_path / "run")[-1]["eval/episode_return_mean"]
    refused = trpo_eval("run", "--episodes", "1")
    assert refused.status == 1
    assert "env.wrappers[0]: 'probes.Remembering' is not in a package that parts are built from" in refused.err
    played = trpo_eval("run", "--episodes", "1", "--plugins", "probes", "--video", "film.mp4")
    assert played.status == 0, played.err
    assert (tmp_path / "film.mp4").stat().st_size > 0
    again = trpo_train("resume=run", "total_steps=256", "plugins=[probes]")
    assert again.status == 0, again.err
