"""What environments return is what they declare, or is refused in the same words however they run."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from typing import Any

import numpy as np
import probes  # noqa: F401  registers the probe environments
import pytest
from conftest import Command
from gymnasium import spaces

from trpo_cli.envs.contract import Contract
from trpo_cli.envs.environments import Environments
from trpo_cli.envs.failure import ContractViolation
from trpo_cli.envs.make import Parallelism, Task
from trpo_cli.errors import ConfigError, EnvironmentContractError

PIXELS, STATES, FLOATS = spaces.Box(0, 255, (2,), np.uint8), spaces.Discrete(4, start=1), spaces.Box(-1.0, 1.0, (2,))
MODES: tuple[Any, ...] = ("sync", "async")
STEP = "step does not return (observation, reward, terminated, truncated, info)"
RESET = "reset does not return (observation, info)"


def made(vectorization: Any, max_episode_steps: int | None = None, **kwargs: Any) -> Environments:
    task = Task("Probe/Careless-v0", kwargs, max_episode_steps, False, False, 10.0, 10.0)
    return Environments(task, 2, [0, 1], Parallelism(vectorization))


def refused(vectorization: Any, **kwargs: Any) -> str:
    """What is said of an environment that returns what it should not, in its first reset or step."""
    try:
        with contextlib.closing(made(vectorization, **kwargs)) as envs:
            envs.step(np.zeros((2, 1), dtype=np.int64))
    except EnvironmentContractError as misfit:
        return str(misfit)
    return "nothing"


@pytest.mark.parametrize(
    ("returns", "said"),
    [
        (
            {"space": PIXELS, "observation": np.array([0.25, 0.5])},
            "observation does not match its space at step 0 of environment 0: "
            "it holds numbers that uint8 cannot represent\n"
            "declared: Box(0, 255, (2,), uint8); returned: [0.25 0.5 ] (array of float64, shape (2,))",
        ),
        (
            {"space": STATES, "observation": 0},
            "observation does not match its space at step 0 of environment 0: it is not in the range from 1 to 4\n"
            "declared: Discrete(4, start=1); returned: 0 (int)",
        ),
        (
            {"reward": np.array([1.0])},
            "reward is not one number at step 1 of environment 0: [1.] (array of float64, shape (1,))",
        ),
        ({"truncated": None}, "truncated is neither true nor false at step 1 of environment 0: None"),
        (
            {"reset": np.zeros(2)},
            f"{RESET} at step 0 of environment 0: [0. 0.] (array of float64, shape (2,)); Gym did before version 0.26",
        ),
        (
            {"step": ([0.0], 1.0, False, {})},
            f"{STEP} at step 1 of environment 0: (list, float, bool, dict); Gym did before version 0.26",
        ),
        (
            {"step": ([0.0], 1.0, False, {}), "max_episode_steps": 3},  # a wrapper of Gymnasium's takes that apart
            f"{STEP} at step 1 of environment 0: not enough values to unpack (expected 5, got 4); "
            "Gym did before version 0.26",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_the_same_words(returns: dict[str, Any], said: str) -> None:
    for vectorization in MODES:
        assert refused(vectorization, **returns) == f"Probe/Careless-v0: {said}"


@pytest.mark.parametrize(
    ("space", "observation", "reason"),
    [
        (FLOATS, None, "it is not a number"),
        (FLOATS, "up", "it is not a number"),
        (FLOATS, {"a": 1}, "it is not a number"),
        (FLOATS, ["0.5", "0.5"], "it holds something other than numbers"),
        (FLOATS, [0.5, None], "it holds something other than numbers"),
        (FLOATS, [0.5, 1j], "it holds something other than numbers"),
        (FLOATS, [[0.5], [0.5, 0.5]], "NumPy cannot convert it to an array"),
        (FLOATS, np.zeros((1, 2), np.float32), "its shape is (1, 2) instead of (2,)"),
        (FLOATS, np.zeros(3, np.float32), "its shape is (3,) instead of (2,)"),
        (FLOATS, 0.5, "its shape is () instead of (2,)"),
        (PIXELS, np.array([-1, 0]), "it holds numbers that uint8 cannot represent"),
        (PIXELS, [0, 256], "it holds numbers that uint8 cannot represent"),
        (PIXELS, np.array([np.nan, 1.0]), "it holds numbers that uint8 cannot represent"),
        (PIXELS, np.array([1e30, 1.0]), "it holds numbers that uint8 cannot represent"),
        (STATES, 5, "it is not in the range from 1 to 4"),
        (STATES, np.int64(-1), "it is not in the range from 1 to 4"),
        (STATES, np.uint8(0), "it is not in the range from 1 to 4"),
        (STATES, 1.5, "it holds numbers that int64 cannot represent"),
        (STATES, [1], "its shape is (1,) instead of ()"),
    ],
)
def test_an_observation_that_its_space_has_not(space: spaces.Space[Any], observation: Any, reason: str) -> None:
    with pytest.raises(ContractViolation) as misfit:
        Contract(space, 3).check_reset((observation, {}))
    assert misfit.value.details.startswith(f" of environment 3: {reason}\ndeclared: {space}; returned: ")


@pytest.mark.parametrize(
    ("space", "observation"),
    [
        (FLOATS, np.array([0.1, 7.0])),  # not within its bounds either
        (FLOATS, [0, True]),
        (FLOATS, (np.float16(0.5), 2)),
        (PIXELS, [0, 255]),
        (PIXELS, np.array([3.0, 4.0])),
        (spaces.Box(-1.0, 1.0, ()), 0.5),
        (STATES, 4),
        (STATES, np.uint8(1)),
        (STATES, np.array(2)),
        (STATES, 3.0),
    ],
)
def test_whatever_keeps_every_number_passes(space: spaces.Space[Any], observation: Any) -> None:
    passed = np.asarray(Contract(space, 0).check_reset((observation, None)))
    assert passed.shape == space.shape
    np.testing.assert_array_equal(passed, np.asarray(observation, space.dtype))


@pytest.mark.parametrize("reward", [1, True, np.float32(0.1), np.array(2.5), np.bool_(True), Fraction(1, 4), -0.0])
def test_a_reward_is_any_one_number(reward: Any) -> None:
    passed = Contract(FLOATS, 0).check_step((np.zeros(2), reward, False, False, None))[1]
    assert type(passed) is float
    assert passed == float(reward)


@pytest.mark.parametrize("reward", [None, "1.0", [1.0], [[1.0], []], np.zeros(2), 1j, {}, 10**400])
def test_and_nothing_else_is(reward: Any) -> None:
    with pytest.raises(ContractViolation, match="reward is not one number"):
        Contract(FLOATS, 0).check_step((np.zeros(2), reward, False, False, {}))


@pytest.mark.parametrize(("flag", "passed"), [(np.True_, True), (0, False), (1, True), (np.array(False), False)])
def test_a_flag_is_true_or_false(flag: Any, passed: bool) -> None:
    assert Contract(FLOATS, 0).check_step((np.zeros(2), 0.0, flag, flag, {}))[2:4] == (passed, passed)


@pytest.mark.parametrize("flag", [None, "no", [False], np.array([True]), {}, 2, float("nan")])
def test_and_not_something_else(flag: Any) -> None:
    for number, name in ((2, "terminated"), (3, "truncated")):
        returned = [np.zeros(2), 0.0, False, False, {}]
        returned[number] = flag
        with pytest.raises(ContractViolation, match=f"{name} is neither true nor false"):
            Contract(FLOATS, 0).check_step(tuple(returned))


@pytest.mark.parametrize("vectorization", MODES)
@pytest.mark.parametrize(
    "info", [None, {"legal": [1, 2]}, {"x": None}, {3: "x"}, "words"], ids=["none", "list", "null", "key", "text"]
)
def test_nobody_reads_infos(vectorization: Any, info: Any) -> None:
    envs = made(vectorization, info=info)
    assert envs.step(np.zeros((2, 1), dtype=np.int64))[1].tolist() == [1.0, 1.0]
    envs.restart(np.array([True, False]))
    envs.close()


@pytest.mark.parametrize("vectorization", MODES)
@pytest.mark.parametrize(
    ("space", "observation", "encoded"),
    [
        (STATES, 2, [0.0, 1.0, 0.0, 0.0]),
        (STATES, np.array(4), [0.0, 0.0, 0.0, 1.0]),
        (spaces.Box(-1.0, 1.0, ()), 0.5, [0.5]),
        (FLOATS, [0.5, 7.0], [0.5, 7.0]),
        (PIXELS, np.array([3.0, 255.0]), [3.0, 255.0]),
    ],
)
def test_what_passes_arrives(
    space: spaces.Space[Any], observation: Any, encoded: list[float], vectorization: Any
) -> None:
    envs = made(vectorization, space=space, observation=observation)
    assert envs.observation.tolist() == [encoded] * 2
    assert envs.step(np.zeros((2, 1), dtype=np.int64))[0].tolist() == [encoded] * 2
    envs.close()


def test_an_array_that_is_used_again_is_copied() -> None:
    seen = np.zeros(2, np.float32)
    envs = made("sync", space=FLOATS, observation=seen)
    before = envs.step(np.zeros((2, 1), dtype=np.int64))[0]
    seen[:] = 1.0
    assert before.tolist() == [[0.0, 0.0]] * 2
    envs.close()


@pytest.mark.parametrize("space", [spaces.Box(-1.0, 1.0, (0,)), spaces.Box(-1.0, 1.0, (2, 0))])
def test_a_space_without_a_number_is_refused(space: spaces.Space[Any]) -> None:
    with pytest.raises(ConfigError, match=r"the observations are Box.*of one number or more"):
        made("sync", space=space)


@pytest.mark.parametrize("vectorization", MODES)
@pytest.mark.parametrize(
    ("env_id", "said"),
    [
        ("Probe/Spaceless-v0", r"the observations are None; supported are"),
        ("Probe/Fickle-v0", r"Probe/Fickle-v0 has other spaces each time it is made: Box\(.*\), then Box\("),
    ],
)
def test_spaces_are_declared_and_always_the_same(env_id: str, said: str, vectorization: Any) -> None:
    task = Task(env_id, {}, None, False, False, 10.0, 10.0)
    with pytest.raises(ConfigError, match=said):
        Environments(task, 2, [0, 1], Parallelism(vectorization))


def test_a_misfit_ends_the_run_at_once(trpo_train: Command, tmp_path: Any) -> None:
    careless = ("plugins=[probes]", "env=gym", "env.id=Probe/Careless-v0", "env.kwargs={reward: one}", "eval.every=0")
    done = trpo_train(*careless, "sampler.num_envs=2", "sampler.vectorization=sync", "hydra.run.dir=run")
    assert done.status == 1
    assert done.err.count("reward is not one number at step 1 of environment 0: one (str)") == 1
    assert done.err.endswith("the checkpoint of step 0 is intact")
    assert "dropped" not in done.err
    assert (tmp_path / "run" / "checkpoints" / "step_000000000000.safetensors").exists()
