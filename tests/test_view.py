"""What a policy sees: chosen entries of a vector, and the last observations, oldest first, from every backend alike."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import old_pictures  # noqa: F401  registers an environment
import probes  # noqa: F401  registers the probe environments
import pytest
import screens  # noqa: F401  registers an environment
from conftest import Command, built, learned
from exactness import exactly
from gymnasium import spaces
from gymnasium.wrappers import GrayscaleObservation, ResizeObservation

from trpo_cli.data import Entry, ObservationSpec
from trpo_cli.envs.environments import Environments
from trpo_cli.envs.make import Parallelism, Task
from trpo_cli.envs.spaces import observation_encoder
from trpo_cli.envs.view import find_entries, select_entries, stack_spec
from trpo_cli.errors import ConfigError, require_packages

SCREENS = ("env=Screens-v0", "sampler.num_envs=2")
VECTOR = ObservationSpec((5,), np.dtype(np.float64))
PLAIN = Task("CartPole-v1", {}, 25, False, False, 10.0, 10.0)


@pytest.mark.parametrize(
    ("observe", "hide", "seen"),
    [
        (None, None, [0, 1, 2, 3, 4]),
        ([3, 0], None, [3, 0]),
        (["1:3", -1], None, [1, 2, 4]),
        ([":"], None, [0, 1, 2, 3, 4]),
        ([" -2 : "], None, [3, 4]),
        (None, [1, 3], [0, 2, 4]),
        (None, [":-1"], [4]),
        (None, [], [0, 1, 2, 3, 4]),
    ],
)
def test_entries_are_named_as_in_python(observe: Any, hide: Any, seen: list[int]) -> None:
    batch = np.arange(10.0).reshape(2, 5)
    spec, encode = select_entries(VECTOR, lambda batch: batch, observe, hide, "Some-v0")
    assert spec == replace(VECTOR, shape=(len(seen),))
    np.testing.assert_array_equal(encode(batch), batch[:, seen])


JOINED = ObservationSpec(
    (6,),
    np.dtype(np.float64),
    entries=(
        Entry("goal", (2,), 0, np.dtype(np.float32)),
        Entry("inner.door", (3,), 2, np.dtype(np.int64), is_numeric=False),
        Entry("inner.x", (), 5, np.dtype(np.float32)),
    ),
)


@pytest.mark.parametrize(
    ("observe", "hide", "seen", "entries"),
    [
        (["inner", "goal"], None, [0, 1, 2, 3, 4, 5], [("goal", 0), ("inner.door", 2), ("inner.x", 5)]),
        (None, ["goal"], [2, 3, 4, 5], [("inner.door", 0), ("inner.x", 3)]),
        (["inner.x", 1], None, [1, 5], [("goal", 0), ("inner.x", 1)]),
    ],
)
def test_entries_of_a_joined_vector_have_names(observe: Any, hide: Any, seen: list[int], entries: list[Any]) -> None:
    batch = np.arange(6.0)[None]
    spec, encode = select_entries(JOINED, lambda batch: batch, observe, hide, "Some-v0")
    assert [(entry.name, entry.start) for entry in spec.entries] == entries
    assert encode(batch)[0].tolist() == seen
    stacked = stack_spec(spec, 2)
    assert [entry.start for entry in stacked.entries] == [
        frame * len(seen) + start for frame in (0, 1) for _, start in entries
    ]


def test_entries_of_bytes_may_be_hidden() -> None:
    image, flag = spaces.Box(0, 255, (2, 2), np.uint8), spaces.MultiBinary(1)
    spec, encode = observation_encoder(spaces.Dict(flag=flag, image=image))
    spec, encode = select_entries(spec, encode, None, ["flag"], "Some-v0")
    assert (spec.shape, spec.dtype) == ((4,), np.uint8)
    assert encode(np.array([[1, 2, 3, 4, 5]], np.uint8)).tolist() == [[2, 3, 4, 5]]


def test_names_that_are_alike_are_told_apart() -> None:
    one = spaces.Discrete(2)
    spec, _ = observation_encoder(spaces.Dict({"a.b": one, "a": spaces.Dict(b=one), "c.d": one, "\x1b[31m": one}))
    assert [entry.name for entry in spec.entries] == ["'\\x1b[31m'", "a.b", "'a.b'", "'c.d'"]
    for name, start in (("a.b", 2), ("'a.b'", 4), ("c.d", 6), ("'c.d'", 6), ("\x1b[31m", 0)):
        assert find_entries(spec, [name], "env.hide", "Some-v0").tolist() == [start, start + 1]


PIXELS, STATES = ObservationSpec((5, 5), np.dtype(np.uint8)), ObservationSpec((5,), np.dtype(np.float64), 5)
SIZE = "but an observation of Some-v0 has 5 numbers; it should be an index from -5 to 4, or a range such as '0:5'"


@pytest.mark.parametrize(
    ("spec", "observe", "hide", "said"),
    [
        (
            VECTOR,
            [1],
            [2],
            "env.observe: give either the entries to observe or, with env.hide, those to hide; not both",
        ),
        (VECTOR, [0, 5], None, f"env.observe[1]: got 5, {SIZE}"),
        (VECTOR, None, [-6], f"env.hide[0]: got -6, {SIZE}"),
        (VECTOR, None, ["2:6"], f"env.hide[0]: got '2:6', {SIZE}"),
        (VECTOR, None, ["3:3"], f"env.hide[0]: got '3:3', {SIZE}"),
        (VECTOR, None, ["speed"], f"env.hide[0]: got 'speed', {SIZE}"),
        (VECTOR, [1, "0:2"], None, "env.observe[1]: '0:2' names entry 1 a second time"),
        (VECTOR, None, [4, -1], "env.hide[1]: -1 names entry 4 a second time"),
        (VECTOR, [], None, "env.observe: got [], which leaves nothing of the 5 entries of Some-v0 to see"),
        (VECTOR, None, ["0:5"], "env.hide: got ['0:5'], which leaves nothing of the 5 entries"),
        (PIXELS, [0], None, "the observations of Some-v0 are arrays of uint8, shape (5, 5)"),
        (replace(VECTOR, shape=(5, 1)), [0], None, "the observations of Some-v0 are arrays of float64, shape (5, 1)"),
        (STATES, None, [0], "env.hide: names entries of a vector, and the observations of Some-v0 are one state of a"),
    ],
)
def test_entries_that_are_not_there_are_refused(spec: ObservationSpec, observe: Any, hide: Any, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        select_entries(spec, lambda batch: batch, observe, hide, "Some-v0")
    assert said in str(refused.value)


def test_what_is_seen_and_that_no_episode_ended_is_told(trpo_train: Command) -> None:
    words = (
        "env=Pendulum-v1",
        "eval.every=0",
        "sampler.num_envs=2",
        "sampler.steps_per_iteration=64",
        "total_steps=64",
    )
    done = trpo_train(*words, "env.hide=[0]", "env.stack=3")
    assert "the policy sees 2 of the 3 numbers of an observation and the last 3 observations at once" in done.err
    assert (
        "Pendulum-v1: no episode ended after 64 steps\neach of 2 environments side by side took 32 of them" in done.out
    )


IMAGES = [
    ((40, 30, 3), True, [17, 11], (17, 11)),
    ((40, 30, 3), True, None, (40, 30)),
    ((40, 30, 3), False, [17, 50], (17, 50, 3)),
    ((40, 30, 1), True, [17, 11], (17, 11, 1)),
    ((40, 30), False, [60, 11], (60, 11)),
    ((40, 30), True, [40, 30], (40, 30)),
]


@pytest.mark.parametrize(("given", "grey", "resize", "seen"), IMAGES)
def test_images_are_those_of_the_wrappers_of_gymnasium(given: Any, grey: bool, resize: Any, seen: Any) -> None:
    task = replace(PLAIN, id="Screens-v0", kwargs={"shape": given}, grey=grey, resize=resize, max_episode_steps=None)
    wrapped: Any = gymnasium.make("Screens-v0", shape=given, disable_env_checker=True)
    wrapped = GrayscaleObservation(wrapped) if grey and given[2:] == (3,) else wrapped
    wrapped = ResizeObservation(wrapped, tuple(resize)) if resize else wrapped
    with contextlib.closing(Environments(replace(task, stack=2), 2, [7, 8])) as envs:
        assert (envs.spec.shape, envs.spec.dtype) == ((2, *seen), np.uint8)
        expected = wrapped.reset(seed=7)[0]
        for _ in range(20):
            np.testing.assert_array_equal(envs.observation[0, -1], expected)
            _, _, terminated, _ = envs.step(np.zeros((2, 1), np.int64))
            expected = wrapped.step(0)[0]
            np.testing.assert_array_equal(envs.observation[0, -1], expected)
            if terminated.any():
                envs.restart(terminated)
                expected = wrapped.reset()[0] if terminated[0] else expected


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ("env=CartPole-v1", "env.grey=true"),
            "env.grey: is for images of bytes, .* of CartPole-v1 are arrays of float64",
        ),
        (("env=FrozenLake-v1", "env.resize=[84,84]"), "env.resize: is for images of bytes"),
        ((*SCREENS, "env.kwargs={shape: [4, 4, 2]}", "env.grey=true"), r"arrays of uint8, shape \(4, 4, 2\)"),
        ((*SCREENS, "env.kwargs={dtype: bool}", "env.resize=[4,4]"), r"arrays of bool, shape \(84, 84\)"),
        ((*SCREENS, "env.resize=[84]"), r"env.resize: got \[84\]; it should be \[HEIGHT, WIDTH\] in pixels"),
        ((*SCREENS, "env.resize=[0,84]"), r"env.resize\[0\]: got \[0, 84\]; it should be greater"),
        (
            (*SCREENS, "env.resize=[1e8,1e8]"),
            "env.resize: the resized observations have 10,000,000,000,000,000 numbers",
        ),
        (("env=Probe/Several-v0", "env.grey=true"), "env.grey: is for images of bytes, .* are .* of a vector"),
    ],
)
def test_what_is_no_image_of_bytes_is_not_prepared(overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        built(*overrides)


def test_resizing_needs_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "cv2" else find(name))
    built(*SCREENS, "env.resize=[84,84]").close()
    with pytest.raises(ConfigError, match=r"env.resize: cv2 is not installed: pip install 'trpo-cli\[images\]'"):
        built(*SCREENS, "env.resize=[42,42]")


def test_a_package_that_lacks_a_library_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "package_without_library.py").write_text("raise ImportError('no libGL.so.1')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"^--x: package-without-library is installed, but .* no libGL.so.1$"):
        require_packages("--x", "images", "package_without_library")


def test_what_a_policy_sees_of_images_is_told(trpo_train: Command) -> None:
    words = (
        "sampler.num_envs=2",
        "sampler.steps_per_iteration=64",
        "total_steps=64",
        "eval.every=0",
        "plugins=[screens]",
    )
    colours = ("env.kwargs={shape: [40, 30, 3]}", "env.grey=true", "env.resize=[8,9]", "env.stack=3")
    done = trpo_train(*SCREENS, *colours, *words, "policy=mlp", "critic=mlp")
    assert "the policy sees grey images of 8 x 9 and the last 3 observations at once" in done.err


def made(task: Task, vectorization: Any, seed: int = 0) -> Environments:
    return Environments(task, 3, [seed, seed + 1, seed + 2], Parallelism(vectorization, 2))


def play(envs: Environments, steps: int, seed: int = 5) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """What is seen after each step of random actions, whose episodes ended, and what is seen after their restart.

    Nothing is copied, so what was seen must not change later.
    """
    rng, seen = np.random.default_rng(seed), []
    for _ in range(steps):
        action = rng.normal(size=(3, envs.distribution.network_size)).astype(np.float32)
        observation, _, terminated, truncated = envs.step(action if envs.task.id == "Hopper-v4" else action[:, :1] > 0)
        ended = terminated | truncated
        seen.append((observation, ended, envs.restart(ended) if ended.any() else observation))
    return seen


@pytest.mark.parametrize(
    ("env_id", "vectorization"),
    [("Hopper-v4", "native"), ("CartPole-v1", "sync"), ("CartPole-v1", "async"), ("OldPictures-v0", "sync")],
)
def test_a_stack_holds_the_last_observations(env_id: str, vectorization: Any) -> None:
    task = replace(PLAIN, id=env_id)
    alone, stacked = made(task, vectorization), made(replace(task, stack=3), vectorization)
    assert stacked.spec == ObservationSpec((3, *alone.spec.shape), alone.spec.dtype, stack=3)
    assert stacked.observation.dtype == alone.observation.dtype
    stacks = [[first] * 3 for first in alone.observation.copy()]
    seen = play(stacked, 60)
    rng = np.random.default_rng(5)
    for after, ended, restarted in seen:
        action = rng.normal(size=(3, alone.distribution.network_size)).astype(np.float32)
        one = alone.step(action if env_id == "Hopper-v4" else action[:, :1] > 0)[0].copy()
        stacks = [[*stack[1:], newest] for stack, newest in zip(stacks, one, strict=True)]
        np.testing.assert_array_equal(after, np.array(stacks))
        if ended.any():
            first = alone.restart(ended).copy()
            stacks = [[first[row]] * 3 if ended[row] else stacks[row] for row in range(3)]
        np.testing.assert_array_equal(restarted, np.array(stacks))
    assert any(ended.any() and not ended.all() for _, ended, _ in seen) or env_id == "OldPictures-v0"
    alone.close()
    stacked.close()


VIEWED = replace(PLAIN, hide=[1, 3], stack=4)


@pytest.mark.parametrize(
    ("task", "vectorization"),
    [(VIEWED, "sync"), (VIEWED, "async"), (replace(VIEWED, id="Hopper-v4", hide=["5:"]), "native")],
    ids=lambda value: value if isinstance(value, str) else value.id,
)
def test_a_stack_goes_on_from_a_file(task: Task, vectorization: Any) -> None:
    envs, other = made(task, vectorization), made(task, vectorization, seed=70)
    play(envs, 13, seed=1)
    state = copy.deepcopy(envs.state_dict())
    expected = play(envs, 30)
    play(other, 7, seed=2)
    other.load_state_dict(state)
    assert exactly(play(other, 30), expected)
    with pytest.raises(Exception, match="not match: their observations are not arrays of shape"):
        other.load_state_dict({**state, "observation": state["observation"][:, 1:]})
    envs.close()
    other.close()


@pytest.mark.parametrize(("env_id", "vectorization"), [("CartPole-v1", "sync"), ("Hopper-v4", "native")])
def test_a_stack_is_branched_into_other_environments(env_id: str, vectorization: Any) -> None:
    envs = made(replace(VIEWED, id=env_id), vectorization)
    play(envs, 4, seed=1)
    aside, stacks = envs.save(np.arange(3)), envs.observation.copy()
    expected = copy.deepcopy(play(envs, 20))  # the last array is the one that is restored
    envs.restore(np.array([2, 1, 0]), aside)
    np.testing.assert_array_equal(envs.observation, stacks[::-1])
    envs.restore(np.arange(3), aside)
    assert exactly(play(envs, 20), expected)
    envs.close()


def test_what_is_learned_from_a_view_does_not_depend_on_the_vectorization() -> None:
    view = ("env.hide=['5:']", "env.stack=3", "env.max_episode_steps=12")
    reference = learned(*view, "sampler.num_threads=1")
    for vectorization in ("native", "sync", "async"):
        assert exactly(learned(*view, f"sampler.vectorization={vectorization}"), reference)


def test_a_stack_counts_in_the_memory_that_a_batch_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trpo_cli.memory.total_memory", lambda: 64 * (26 + 12 * 10.0))
    small = ("env=Hopper-v4", "sampler.num_envs=2", "sampler.steps_per_iteration=64", "env.observe=[0]")
    built(*small, "env.stack=10").close()
    with pytest.raises(ConfigError, match=r"a batch of 64 steps takes at least"):
        built(*small, "env.stack=11")


def test_a_stack_of_images_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is stored once, unless each place in a stack has statistics of its own."""
    monkeypatch.setattr("trpo_cli.memory.total_memory", lambda: 64 * (26 + 84 * 84.0) + 1e9)
    monkeypatch.setattr("trpo_cli.samplers.paths.BYTES", 26 + 1e9 / 64)
    small = (*SCREENS, "sampler.steps_per_iteration=64", "env.stack=4", "policy=linear", "critic=zero")
    built(*small).close()
    with pytest.raises(ConfigError, match=r"a batch of 64 steps takes at least"):
        built(*small, "env.normalize_observation=true")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("sampler=exact", "env.stack=2", "algo.gamma=0.9"), "env.stack: changes what is sampled, and sampler=exact"),
        (("algo=cpi", "env.sign_reward=true"), "env.sign_reward: changes what is sampled"),
        (("algo=cpi", "env.wrappers=[{ClipReward: {min_reward: 0}}]"), "env.wrappers: changes what is sampled"),
        (("policy=tabular", "env.stack=2"), "it needs a Discrete observation space, and env.stack=1"),
    ],
)
def test_tables_of_states_take_no_stack(overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        built("env=FrozenLake-v1", *overrides)
