"""Rows of metrics: the contract's columns, exact numbers, empty cells, and the same in TensorBoard."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trpo_cli.run.logger import COLUMNS, Logger

CONTRACT = [
    "env_steps",
    "rollout/episode_return_mean",
    "rollout/episode_length_mean",
    "rollout/episodes",
    "policy/kl",
    "policy/max_kl",
    "policy/entropy",
    "policy/surrogate_improvement",
    "trust_region/cg_residual",
    "trust_region/curvature",
    "trust_region/predicted_improvement",
    "trust_region/backtracks",
    "trust_region/accepted",
    "critic/explained_variance",
    "critic/loss",
    "time/steps_per_second",
    "time/sample_seconds",
    "time/update_seconds",
]


def row(**changes: float | None) -> dict[str, float | None]:
    names = {name.replace("/", "__"): name for name in (*COLUMNS, "policy/own")}
    return {name: changes.get(key, 1.0) for key, name in names.items()}


def test_the_columns_of_the_contract_are_there() -> None:
    assert set(CONTRACT) <= set(COLUMNS)


def test_rows_read_back_exactly(tmp_path: Path) -> None:
    with Logger(tmp_path, total_steps=2) as logger:
        logger.write(row(env_steps=1.0, policy__kl=0.1 + 0.2, rollout__episode_return_mean=None))
        logger.write(row(env_steps=2.0, policy__own=float("nan")))
    with (tmp_path / "metrics.csv").open() as file:
        first, second = csv.DictReader(file)
    assert list(first) == [*COLUMNS, "policy/own"]
    assert first["env_steps"] == "1"
    assert float(first["policy/kl"]) == 0.1 + 0.2
    assert first["rollout/episode_return_mean"] == ""
    assert second["policy/own"] == "nan"


def test_tensorboard_holds_the_same(tmp_path: Path) -> None:
    with Logger(tmp_path, total_steps=20) as logger:
        logger.write(row(env_steps=10.0, policy__kl=0.25, rollout__episode_return_mean=None))
        logger.write(row(env_steps=20.0, policy__kl=0.5))
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    assert [(e.step, e.value) for e in events.Scalars("policy/kl")] == [(10, 0.25), (20, 0.5)]
    assert [e.step for e in events.Scalars("rollout/episode_return_mean")] == [20]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_a_table_of_an_earlier_version_goes_on_with_its_own_columns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("env_steps,policy/own\n1,1\n")
    with caplog.at_level("INFO"), Logger(tmp_path, total_steps=2, written=path.stat().st_size) as logger:
        logger.write(row(env_steps=2.0))
    assert path.read_text() == "env_steps,policy/own\n1,1\n2,1\n"
    assert "goes on without" in caplog.text
    assert "rollout/recent_return_mean" in caplog.text


def test_a_new_column_is_an_error(tmp_path: Path) -> None:
    with Logger(tmp_path, total_steps=2) as logger:
        logger.write(row())
        with pytest.raises(ValueError, match="policy/late"):
            logger.write({**row(), "policy/late": 1.0})
