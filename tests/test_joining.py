"""Composite observations: joined exactly, checked entry by entry, and the same however environments run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import probes  # noqa: F401  registers the probe environments
import pytest
from conftest import Command, built
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from trpo_cli.envs.contract import Contract
from trpo_cli.envs.environments import Environments
from trpo_cli.envs.failure import ContractViolation
from trpo_cli.envs.joining import Joined, join
from trpo_cli.envs.make import Parallelism, Task
from trpo_cli.envs.normalize import ObservationNormalizer
from trpo_cli.envs.spaces import observation_encoder
from trpo_cli.errors import ConfigError

SHAPES = st.lists(st.integers(1, 3), max_size=3).map(tuple)
LEAVES = st.one_of(
    st.builds(lambda shape, kind: spaces.Box(0, 100, shape, kind), SHAPES, st.sampled_from([np.float32, np.uint8])),
    st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 5), st.integers(-2, 2)),
    st.builds(
        lambda n, start: spaces.MultiDiscrete([[n, 2]], start=[[start, 0]]), st.integers(1, 5), st.integers(0, 2)
    ),
    st.builds(lambda shape: spaces.MultiBinary([*shape, 2]), SHAPES),
)
SPACES: st.SearchStrategy[Any] = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("zyxab"), inner, min_size=1, max_size=3).map(spaces.Dict),
        st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple),
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(SPACES, st.integers(0, 1000))
def test_joined_observations_are_gymnasiums_flat_ones(space: Any, seed: int) -> None:
    joined = join(space)
    if not isinstance(joined, Joined):
        assert joined is space
        return
    space.seed(seed)
    sample = space.sample()
    vector = Contract(joined, 0).check_reset((sample, {}))
    assert joined.contains(vector)
    np.testing.assert_array_equal(vector, spaces.flatten(space, sample))
    apart = spaces.unflatten(space, vector)  # as records hold it
    assert space.contains(apart)
    np.testing.assert_array_equal(spaces.flatten(space, apart), vector)
    ends = [entry.place.stop for entry in joined.entries]
    assert [entry.start for entry in joined.entries] == [0, *ends[:-1]]
    assert ends[-1] == len(vector)


def test_names_that_are_alike_are_not_confused() -> None:
    space = spaces.Dict({"a.b": spaces.Discrete(2), "a": spaces.Dict({"b": spaces.Discrete(3)})})
    for seed in range(4):
        space.seed(seed)
        sample = space.sample()
        vector = Contract(join(space), 0).check_reset((sample, {}))
        np.testing.assert_array_equal(vector, spaces.flatten(space, sample))


SPACE = spaces.Dict(
    {
        "hand": spaces.Dict({"cards": spaces.MultiDiscrete([3, 2], start=[1, 0]), "open": spaces.MultiBinary(2)}),
        "place": spaces.Box(-1.0, 1.0, (2,)),
        "turn": spaces.Tuple([spaces.Discrete(3, start=1), spaces.Box(0, 255, (2, 2), np.uint8)]),
    }
)
RIGHT: dict[str, Any] = {
    "hand": {"cards": [3, 0], "open": [True, 0]},
    "place": (0.25, 7),
    "turn": [np.int8(2), [[0, 1], [2, 255.0]]],
}


def test_each_entry_has_its_name_and_its_place() -> None:
    joined = join(SPACE)
    vector = Contract(joined, 0).check_reset((RIGHT, {}))
    places = {entry.name: vector[entry.place].tolist() for entry in joined.entries}  # type: ignore[union-attr]
    assert places == {
        "hand.cards": [0, 0, 1, 1, 0],
        "hand.open": [1, 0],
        "place": [0.25, 7],
        "turn.0": [0, 1, 0],
        "turn.1": [0, 1, 2, 255],
    }
    assert (vector.dtype, str(joined)) == (np.float64, str(SPACE))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"place": np.zeros(3)}, "entry 'place' of the observation does not match its space|its shape is (3,) instead"),
        ({"place": "up"}, "entry 'place' of the observation does not match its space|it is not a number"),
        ({"turn": [4, [[0, 0], [0, 0]]]}, "entry 'turn.0' of|it is not in the range from 1 to 3"),
        ({"turn": [1, [[0, 0], [0, -1]]]}, "entry 'turn.1' of|it holds numbers that uint8 cannot represent"),
        ({"turn": (1,)}, "entry 'turn' of|it is not a tuple of 2\ndeclared: Tuple("),
        ({"turn": 1}, "entry 'turn' of|it is not a tuple of 2"),
        ({"hand": {"cards": [0, 0], "open": [0, 0]}}, "entry 'hand.cards' of|it holds numbers outside their ranges"),
        ({"hand": {"cards": [1, 2], "open": [0, 0]}}, "entry 'hand.cards' of|it holds numbers outside their ranges"),
        ({"hand": {"cards": [1, 0], "open": [0, 2]}}, "entry 'hand.open' of|it holds numbers outside their ranges"),
        ({"hand": {"card": [1, 0], "open": [0, 0]}}, "entry 'hand' of|it has no cards, and it has card too"),
        ({"hand": [1, 0]}, "entry 'hand' of|it is not a dictionary\ndeclared: Dict("),
        ({"more": 0}, ": observation does not match its space|it has more too"),
    ],
)
def test_what_does_not_fit_is_refused_by_the_name_of_its_entry(change: Mapping[str, Any], said: str) -> None:
    with pytest.raises(ContractViolation) as misfit:
        Contract(join(SPACE), 3).check_reset(({**RIGHT, **change}, {}))
    what, reason = said.split("|")
    assert what in misfit.value.summary
    assert misfit.value.details.startswith(f" of environment 3: {reason}")


def test_numbers_stay_bytes_if_all_are() -> None:
    camera = spaces.Box(0, 255, (2, 2), np.uint8)
    assert observation_encoder(spaces.Dict({"camera": camera, "way": spaces.Discrete(2)}))[0].stored == np.uint8
    assert observation_encoder(spaces.Tuple([camera, spaces.Box(-1, 1, (1,))]))[0].stored == np.float32
    assert observation_encoder(spaces.MultiBinary(3))[0].stored == np.float32


def test_running_statistics_leave_choices_alone() -> None:
    spec, _ = observation_encoder(spaces.Dict({"c": spaces.Discrete(2), "n": spaces.Box(-9, 9, (1,))}))
    normalizer = ObservationNormalizer(spec, enabled=True, clip=0.5)
    data = np.array([[0.0, 1.0, 5.0], [1.0, 0.0, 7.0], [1.0, 0.0, 6.0]])
    normalizer.update(data)
    np.testing.assert_array_equal(normalizer(data), np.array([[0, 1, -0.5], [1, 0, 0.5], [1, 0, 0]], np.float32))


def test_environments_show_the_same_in_turn_and_in_worker_processes() -> None:
    task = Task("Probe/Several-v0", {}, None, False, False, 10.0, 10.0)
    shown = []
    for vectorization in ("sync", "async"):
        envs = Environments(task, 2, [0, 1], Parallelism(vectorization))
        assert envs.spec == observation_encoder(gymnasium.make("Probe/Several-v0").observation_space)[0]
        shown.append([envs.observation.copy(), *(envs.step(np.ones((2, 1), np.int64))[0].copy() for _ in range(4))])
        envs.close()
    np.testing.assert_array_equal(*shown)


@pytest.mark.parametrize(
    ("space", "observation", "seen"),
    [
        (spaces.MultiDiscrete([2, 3]), [1, 0], [0, 1, 1, 0, 0]),
        (spaces.MultiBinary([2, 2]), [[1, 0], [0, 1]], [1, 0, 0, 1]),
    ],
)
def test_choices_may_be_all_that_is_shown(space: spaces.Space[Any], observation: Any, seen: list[float]) -> None:
    task = Task("Probe/Careless-v0", {"space": space, "observation": observation}, None, False, False, 10.0, 10.0)
    envs = Environments(task, 2, [0, 1], Parallelism("sync"))
    np.testing.assert_array_equal(envs.observation, [seen, seen])
    envs.close()


def test_a_misfit_names_the_task_the_step_and_the_entry(trpo_train: Command) -> None:
    done = trpo_train("plugins=[probes]", "env=Probe/Swapped-v0", "eval.every=0", "sampler.num_envs=2")
    assert done.status == 1
    assert (
        "Probe/Swapped-v0: entry '1' of the observation does not match its space at step 3 of environment 0: "
        "it is not in the range from 0 to 1\ndeclared: Discrete(2); returned: 2 (int)"
    ) in done.err


@pytest.mark.filterwarnings("ignore")  # of the package, about other tasks than this one
def test_a_goal_environment(trpo_train: Command, trpo_eval: Command) -> None:
    pytest.importorskip("gymnasium_robotics", reason="pip install 'trpo-cli[robotics]'")
    maze = ("plugins=[gymnasium_robotics]", "env=PointMaze_UMazeDense-v3", "env.max_episode_steps=20", "eval.every=0")
    short = ("total_steps=128", "sampler.num_envs=2", "sampler.steps_per_iteration=64", "policy=multi_input")
    done = trpo_train(*maze, *short, "hydra.run.dir=maze")
    assert done.status == 0, done.err
    assert "joined to 8 numbers: achieved_goal 2, desired_goal 2, observation 4" in done.err
    assert trpo_eval("maze", "--episodes", "2", "--plugins", "gymnasium_robotics").status == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [("policy=tabular", "needs a Discrete observation space"), ("sampler=exact", "exposes no finite model")],
)
def test_what_needs_a_finite_set_of_states_refuses_several_entries(change: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        built("env=gym", "env.id=Probe/Several-v0", change)
