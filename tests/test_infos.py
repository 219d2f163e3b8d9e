"""Numbers from infos: in rows, evaluations, checkpoints and tables, from every kind of backend."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import probes  # noqa: F401  registers the probe environments
import pytest
from comparison import rows
from conftest import Command, built, composed, quiet_make

from trpo_cli.envs.environments import Environments
from trpo_cli.envs.make import Parallelism, Task
from trpo_cli.errors import EnvironmentContractError
from trpo_cli.parts.building import build_parts, root_settings

SMALL = ("sampler.num_envs=4", "sampler.steps_per_iteration=64")
TOLD = ("plugins=[probes]", "env=Probe/Told-v0", *SMALL)


def task(env_id: str, *log_info: str, **kwargs: Any) -> Task:
    return Task(env_id, kwargs, None, False, False, 10.0, 10.0, log_info=list(log_info))


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_number_is_that_of_the_last_step(vectorization: Any, caplog: pytest.LogCaptureFixture) -> None:
    names = ("is_success", "time", "episode.r", "bonus", "undefined", "nothing")
    envs = Environments(task("Probe/Told-v0", *names), 4, [0, 1, 2, 3], Parallelism(vectorization))
    caplog.set_level(logging.WARNING)
    try:
        won = envs.observation[:, 0] > 0
        assert won.any()
        assert not won.all()
        for _ in range(2):
            *_, terminated, truncated = envs.step(np.zeros((4, 1), dtype=np.int64))
            assert envs.read_infos(terminated) == {}
        lost, everybody = envs.read_infos(truncated), envs.read_infos(np.ones(4, dtype=bool))
    finally:
        envs.close()
    assert truncated.tolist() == (~won).tolist()
    assert lost["is_success"].tolist() == [0.0] * len(lost["time"])
    assert everybody["is_success"].tolist() == won.tolist()
    assert everybody["time"].tolist() == [2.0] * 4
    assert everybody["episode.r"].tolist() == [0.5] * 4
    assert np.array_equal(everybody["bonus"], np.where(won, 2.0, np.nan), equal_nan=True)
    assert np.isnan([*everybody["undefined"], *everybody["nothing"]]).all()
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"Probe/Told-v0: the info at the end of an episode has no finite number '{name}', so the episode does "
        f"not count there; there are: {others}"
        for name, others in (
            ("bonus", "episode.r, is_success, time, undefined"),
            ("undefined", "episode.r, is_success, time"),
            ("nothing", "episode.r, is_success, time, undefined"),
        )
    ]


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        (
            "legal",
            "number",
            "'legal' in its info is not one number at step 2 of environment 0: [0 1] (array of int64, ",
        ),
        ("ragged", "number", "'ragged' in its info is not one number at step 2 of environment 0: [[1], [2, 3]] (list"),
        ("episode", "number", "'episode' in its info is not one number at step 2 of environment 0: {'r': 0.5} (dict)"),
        ("time", "list", "info is not a dictionary at step 2 of environment 0: [] (list of 0)"),
    ],
)
def test_what_is_no_number_is_refused_by_name(name: str, kind: str, said: str) -> None:
    parts = built(*TOLD, f"env.log_info=[{name}]", f"env.kwargs={{kind: {kind}}}", "env.max_episode_steps=2")
    with pytest.raises(EnvironmentContractError) as caught:
        parts.sampler.collect(parts.policy)  # type: ignore[attr-defined]
    assert said in str(caught.value)


def test_what_nobody_asked_for_does_not_matter() -> None:
    for kind in ("number", "list"):
        metrics = built(*TOLD, f"env.kwargs={{kind: {kind}}}").iterate(0.0).metrics
        assert not [name for name in metrics if "info" in name]


@pytest.mark.parametrize("env", ["Hopper-v4", "Reacher-v5"])
def test_a_native_batch_knows_what_gymnasium_says(env: str) -> None:
    known = [k for k, v in played(env).items() if np.ndim(v) == 0]
    assert known
    native, in_turn = (
        built(
            f"env={env}",
            f"env.log_info=[{','.join(known)}]",
            f"sampler.vectorization={vectorization}",
            "env.max_episode_steps=9",
            *SMALL,
        )
        for vectorization in ("native", "sync")
    )
    found = [parts.iterate(0.0).metrics for parts in (native, in_turn)]
    infos = [{k: v for k, v in metrics.items() if "info" in k} for metrics in found]
    assert infos[0] == infos[1]
    assert None not in infos[0].values()
    assert infos[0].keys() == {f"rollout/info/{name}" for name in known}


def played(env: str) -> dict[str, Any]:
    env = quiet_make(env)
    env.reset(seed=0)
    info: dict[str, Any] = env.step(env.action_space.sample())[4]
    env.close()
    return info


@pytest.mark.parametrize(
    "method",
    [(), ("sampler=vine", "sampler.num_states=4", "sampler.branch_length=4"), ("algo=cem", "sampler.num_envs=4")],
)
def test_the_means_are_over_the_episodes_of_the_returns(method: tuple[str, ...]) -> None:
    steps = ("sampler.steps_per_iteration=512",) if "sampler=vine" in method else SMALL if not method else ()
    overrides = ("plugins=[probes]", "env=Probe/Told-v0", "sampler.num_envs=4", *method, *steps)
    parts = built(*overrides, "env.log_info=[time,bonus]")
    for _ in range(4):
        metrics = parts.iterate(0.0).metrics
        assert metrics["rollout/info/time"] == metrics["rollout/episode_length_mean"]
        assert metrics["rollout/info/bonus"] in (6, None)
    other = built(*overrides, "env.log_info=[time,bonus]")
    other.load_state_dict(parts.state_dict())
    assert other.iterate(0.0).metrics == parts.iterate(0.0).metrics


def test_a_cut_episode_has_ended(trpo_train: Command) -> None:
    cut = ("eval.max_episode_steps=3", "eval.every=64", "total_steps=128")
    done = trpo_train(*TOLD, "env.log_info=[time]", *cut, "hydra.run.dir=run")
    assert done.status == 0, done.err
    for row in rows(Path("run")):
        assert 2 <= float(row["eval/info/time"]) <= 3
        assert row["eval/info/time"] == row["eval/episode_length_mean"]


def test_evaluations_are_told_too(trpo_train: Command, trpo_eval: Command, tmp_path: Path) -> None:
    run = ("total_steps=128", "eval.every=128", "hydra.run.dir=run", "env.log_info=[is_success,bonus,no_such]")
    assert trpo_train(*TOLD, *run).status == 0
    with (tmp_path / "run" / "metrics.csv").open() as file:
        first, second = csv.DictReader(file)
    assert first["eval/info/bonus"] == first["rollout/info/no_such"] == second["eval/info/no_such"] == ""
    assert second["eval/info/bonus"] == "6"
    log = (tmp_path / "run" / "train.log").read_text()
    assert log.count("has no finite number 'no_such'") == 1
    played = trpo_eval("run", "--plugins", "probes", "--json", "results.json", "--episodes", "4")
    (record,) = json.loads((tmp_path / "results.json").read_text())
    assert record["infos"]["bonus"] == [6.0 if length == 6 else None for length in record["lengths"]]
    assert record["infos"]["no_such"] == [None] * 4
    share = np.mean(record["infos"]["is_success"])
    assert record["eval/info/is_success"] == share
    assert played.out.splitlines()[-1].endswith(f"| is_success {share:.4g}, bonus 6, no_such -")


def test_names_are_a_list(trpo_train: Command) -> None:
    assert trpo_train("env.log_info=is_success").err.startswith(
        "error: env.log_info: got 'is_success'; it should be a valid list, [is_success]"
    )


def test_nothing_is_kept_where_nothing_is_asked_for() -> None:
    node = composed("env=CartPole-v1", *SMALL)
    state = build_parts(node, root_settings(node)).state_dict()
    assert "infos" not in state["sampler"]["episodes"]
