"""Schedules: their shapes, the settings that follow them, and what is said about those that cannot be followed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Command, built, small

from trpo_cli.config.moved import update
from trpo_cli.config.scheduling import list_scheduled_keys
from trpo_cli.errors import ConfigError
from trpo_cli.report.runs import read_rows
from trpo_cli.schedules import is_due, make_schedule

TIMES = (0.0, 0.25, 0.5, 0.75, 1.0)


@pytest.mark.parametrize(
    ("shape", "values"),
    [
        ("linear", [8, 6, 4, 2, 0]),
        (["linear", 4], [8, 7, 6, 5, 4]),
        ("late", [8, 8, 8, 4, 0]),
        (["cosine", 0], [8, 4 + 2 * 2**0.5, 4, 4 - 2 * 2**0.5, 0]),
        (["step", [0.5, 2], [0.75, 1]], [8, 8, 2, 1, 1]),
        (["piecewise", [0.25, 4], [0.75, 10]], [8, 4, 7, 10, 10]),
        (["piecewise", [1, 4]], [8, 7, 6, 5, 4]),
    ],
)
def test_shapes(shape: Any, values: list[float]) -> None:
    schedule = make_schedule(8.0, shape)
    assert schedule is not None
    assert [schedule.curve(time) for time in TIMES] == pytest.approx(values)
    assert schedule.curve(1.5) == pytest.approx(values[-1])


def test_a_constant_is_no_schedule() -> None:
    assert make_schedule(8.0, "constant") is None


@pytest.mark.parametrize(
    "shape",
    [
        *(["linear", end] for end in ("a", True, float("inf"))),
        *(["late", [0.5, 1]], ["late", 1, 2], ["constant", 1], ["constant", [0.5, 1]], "step", "piecewise"),
        *(["step", point] for point in (0.5, [50, 1], [0, 1], [0.5, "a"], [0.5, 1, 2])),
        *([[1]], [], 3, None),
    ],
)
def test_a_shape_is_what_its_name_says(shape: Any) -> None:
    with pytest.raises(ValueError, match="it should be"):
        make_schedule(8.0, shape)


@pytest.mark.parametrize(
    ("every", "before", "now", "due"),
    [(10, 5, 10, True), (10, 0, 9, False), (10, 10, 19, False), (10, 19, 40, True), (0, 0, 9, False)],
)
def test_an_event_is_due_once_a_multiple_is_reached(every: int, before: int, now: int, due: bool) -> None:
    assert is_due(every, before, now) == due


def test_settings_of_parts_and_of_their_functions_follow() -> None:
    shapes = (
        "algo.schedule.delta=late",
        "algo.advantage.schedule.lam=[step,[0.5,0]]",
        "critic.schedule.epochs=[step,[0.5,1.0]]",
    )
    parts = built(*small("algo=trpo", "algo.delta=0.01", *shapes))
    rows = [parts.iterate(progress).metrics for progress in TIMES[:4]]
    assert [row["trust_region/delta"] for row in rows] == [0.01, 0.01, 0.01, 0.005]
    assert [row["schedule/algo.advantage.lam"] for row in rows] == [0.97, 0.97, 0, 0]
    assert parts.algorithm.advantage.keywords["lam"] == 0
    assert parts.critic.epochs == 1


def test_the_discount_is_the_same_wherever_it_is_used() -> None:
    parts = built(*small("algo.schedule.gamma=[linear,0.5]", "algo.gamma=0.9", "env.normalize_reward=true"))
    parts.iterate(0.5)
    assert parts.algorithm.gamma == parts.reward_scaler.gamma == pytest.approx(0.7)
    exact = built("sampler=exact", "env=FrozenLake-v1", "algo.gamma=0.9", "algo.schedule.gamma=[linear,0.5]")
    exact.iterate(0.5)
    assert exact.sampler.gamma == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("algo.schedule.delta=liner", "algo.schedule.delta: got liner; it should be constant, linear, cosine, late"),
        ("algo.schedule.delta=[linear,-1]", "after 100 % of training: got -1.0; it should be greater than 0"),
        ("algo.schedule.dleta=linear", "algo.schedule.dleta: no such key; did you mean 'delta'"),
        ("algo.schedule=linear", "it should be {SETTING: SHAPE}"),
        (
            "algo.schedule.normalize_advantage=linear",
            "algo.normalize_advantage can follow no schedule; of its neighbours, ",
        ),
        ("algo.schedule.delta=[step,[50,0.1]]", r"\[step,\[FRACTION,VALUE\],...\] with ascending fractions between"),
        ("algo.schedule.delta=[step,[0.5,0.1],[0.5,0.2]]", "with ascending fractions between 0 and 1"),
        ("algo.schedule.delta=[step,[1,0.1]]", "with ascending fractions between 0 and 1"),
        (f"algo.schedule.delta=[linear,{10**400}]", r"it should be linear, or \[linear,END\]"),
        ("algo.schedule.delta=[late,1,2]", r"it should be late, or \[late,END\]"),
        ("critic.schedule.epochs=linear", r"critic.epochs is a whole number, so it should be \[step"),
        ("critic.schedule.epochs=[piecewise,[0.5,5]]", "critic.epochs is a whole number"),
        ("critic.schedule.epochs=[linear,10]", "critic.epochs is a whole number"),
        ("critic.schedule.epochs=[step,[0.5,2.5]]", "after 50 % of training: got 2.5; it should be a valid integer"),
    ],
)
def test_what_cannot_be_followed_is_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        built(*small(override))


def test_a_schedule_begins_at_a_number() -> None:
    with pytest.raises(ConfigError, match=r"algo\.target_kl is null"):
        built(*small("algo=ppo", "algo.schedule.target_kl=linear"))


def test_former_keys_are_still_read_and_name_their_successor(trpo_train: Command) -> None:
    node = {
        "algo": {"_target_": "x.Y", "delta": 1, "delta_decay": "late"},
        "critic": {"_target_": "x.Z", "learning_rate_decay": "none"},
    }
    updated = update(node)
    assert updated["algo"] == {"_target_": "x.Y", "delta": 1, "schedule": {"delta": "late"}}
    assert updated["critic"]["schedule"] == {"learning_rate": "constant"}
    assert list_scheduled_keys(updated) == ["algo.delta"]
    refused = trpo_train("algo.delta_decay=linear")
    assert "algo.delta_decay: no such key; it is algo.schedule.delta now" in refused.err


def test_values_are_logged_and_resume(trpo_train: Command, tmp_path: Path) -> None:
    lasts = (
        "env=CartPole-v1",
        "sampler.num_envs=2",
        "sampler.steps_per_iteration=32",
        "eval.every=0",
        "total_steps=128",
    )
    assert trpo_train(*lasts, "algo.schedule.damping=[cosine,0.2]", "hydra.run.dir=run").status == 0
    assert trpo_train("resume=run", "total_steps=256").err.count("algo.damping: its schedule ends at the new") == 1
    rows = read_rows(tmp_path / "run" / "metrics.csv")
    assert rows["schedule/algo.damping"][0] == 0.1
