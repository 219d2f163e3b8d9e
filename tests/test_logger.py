"""Rows of metrics: the contract's columns, exact numbers, empty cells, and the same in TensorBoard."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from conftest import Command
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trpo_cli.algos.trust_region import TrustRegion
from trpo_cli.columns import RETURN
from trpo_cli.errors import RunDirectoryError
from trpo_cli.run.logger import COLUMNS, Kept, Logger
from trpo_cli.samplers.single_path import SinglePath

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
    names = {name.replace("/", "__"): name for name in ("policy/own", *COLUMNS[1:])}
    return {name: changes.get(key, 1.0) for key, name in names.items()}


def test_the_columns_of_the_contract_are_there() -> None:
    assert set(CONTRACT) <= set(COLUMNS)


def test_rows_read_back_exactly(tmp_path: Path) -> None:
    with Logger(tmp_path, RETURN, total_steps=2) as logger:
        logger.write(1, row(policy__kl=0.1 + 0.2, rollout__episode_return_mean=None))
        logger.write(2, row(policy__own=float("nan")))
    with (tmp_path / "metrics.csv").open() as file:
        first, second = csv.DictReader(file)
    assert list(first) == [*COLUMNS, "policy/own"]
    assert first["env_steps"] == "1"
    assert float(first["policy/kl"]) == 0.1 + 0.2
    assert first["rollout/episode_return_mean"] == ""
    assert second["policy/own"] == "nan"


def test_tensorboard_holds_the_same(tmp_path: Path) -> None:
    with Logger(tmp_path, RETURN, total_steps=20) as logger:
        logger.write(10, row(policy__kl=0.25, rollout__episode_return_mean=None))
        logger.write(20, row(policy__kl=0.5))
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    assert [(e.step, e.value) for e in events.Scalars("policy/kl")] == [(10, 0.25), (20, 0.5)]
    assert [e.step for e in events.Scalars("rollout/episode_return_mean")] == [20]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_there_are_no_columns_but_those_of_the_metrics(tmp_path: Path) -> None:
    """Known ones come first, in their order, whatever that of the metrics is; then an algorithm's own."""
    metrics = {"exact/return": 0.125, "exact/penalty": None, "time/update_seconds": 1.0, "policy/kl": 2.0}
    with Logger(tmp_path, "exact/return", total_steps=2) as logger:
        logger.write(1, metrics)
    header = "env_steps,policy/kl,time/update_seconds,exact/return,exact/penalty"
    assert (tmp_path / "metrics.csv").read_text().splitlines() == [header, "1,2,1,0.125,"]
    assert (tmp_path / "headline.txt").read_text() == "exact/return\n"


ALGORITHMS = {
    "cma_es": (
        ("env=CartPole-v1", "total_steps=64", "sampler.num_envs=4"),
        {"policy/kl", "policy/entropy", "critic/loss", "trust_region/cg_residual"},
    ),
    "cpi": (
        ("env=FrozenLake-v1", "total_steps=2"),
        {"rollout/episode_return_mean", "rollout/episodes", "critic/loss", "trust_region/backtracks"},
    ),
    "ppo": (
        ("env=CartPole-v1", "total_steps=64", "sampler.num_envs=2", "sampler.steps_per_iteration=64"),
        {"trust_region/cg_residual", "trust_region/curvature", "trust_region/predicted_improvement"},
    ),
}
"""Overrides, and columns of other algorithms."""


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_an_algorithm_has_no_columns_of_others(algo: str, trpo_train: Command, tmp_path: Path) -> None:
    overrides, absent = ALGORITHMS[algo]
    assert trpo_train(f"algo={algo}", *overrides, "hydra.run.dir=run").status == 0
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert not absent & rows[0].keys()
    assert all(any(row[name] for row in rows) for name in rows[0] if not name.startswith("eval/"))


def test_a_line_of_progress_shows_the_headline(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        for place, value in (("a", 123.456), ("b", 0.0123456), ("c", None)):
            with Logger(tmp_path.joinpath(place).resolve(), "my/return", total_steps=1) as logger:
                logger.write(1, {"my/return": value, "time/steps_per_second": 1234.5})
    said = [record.getMessage() for record in caplog.records]
    expected = ("my/return 123.5", "my/return 0.012346", "my/return -")
    assert said == [f"1 / 1 steps  {shown}  1,234 steps/s  0 s left" for shown in expected]


@pytest.mark.parametrize(
    ("kl", "shown"), [(0.0123, "0.0123"), (0.001, "0.0010"), (0.00004321, "4.3e-05"), (0.0, "0"), (-1e-9, "-1e-09")]
)
def test_a_line_of_progress_shows_small_divergences(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kl: float, shown: str
) -> None:
    with caplog.at_level("INFO"), Logger(tmp_path, RETURN, total_steps=1) as logger:
        logger.write(1, {RETURN: 2.0, "policy/kl": kl})
    assert [record.getMessage() for record in caplog.records] == [f"1 / 1 steps  return 2  kl {shown}  0 s left"]


@pytest.mark.parametrize("kind", [SinglePath, TrustRegion])
def test_a_headline_that_is_no_metric_is_told_before_a_row_is_written(
    trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type
) -> None:
    """Whether a sampler or an algorithm names it."""
    monkeypatch.setattr(kind, "headline", "my/return")
    small = ("env=CartPole-v1", "sampler.num_envs=2", "sampler.steps_per_iteration=64", "total_steps=64")
    failed = trpo_train(*small, "hydra.run.dir=run")
    assert failed.status == 1
    said = f"error: {kind.__name__}.headline: got 'my/return'; it should be one of the metrics of an iteration: "
    assert f"{said}critic/explained_variance, " in failed.err
    assert "Traceback" not in failed.err
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == b""


def test_an_exact_run_names_its_return_by_the_column(trpo_train: Command, tmp_path: Path) -> None:
    done = trpo_train("algo=cpi", "env=FrozenLake-v1", "total_steps=2", "hydra.run.dir=run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    final, best = (f"{summary[key]:.5g}" for key in ("final_training_return", "best_training_return"))
    assert f"FrozenLake-v1: exact/return {final}, best {best}" in done.out
    assert "training return" not in done.out
    assert "exact/return 0." in (tmp_path / "run" / "train.log").read_text()


def test_a_headline_without_a_value_is_said_to_have_none(trpo_train: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SinglePath, "headline", "eval/episode_return_mean")
    small = ("sampler.num_envs=2", "sampler.steps_per_iteration=64", "total_steps=64", "eval.every=0")
    assert "CartPole-v1: no eval/episode_return_mean, recent " in trpo_train("env=CartPole-v1", *small).out


def test_a_table_of_an_earlier_version_goes_on_with_its_own_columns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What it lacks is not logged, and said once; what only it has stays empty."""
    path = tmp_path / "metrics.csv"
    path.write_text("env_steps,policy/gone,policy/own\n1,,1\n")
    kept = Kept.read(tmp_path, path.stat().st_size)
    with caplog.at_level("INFO"), Logger(tmp_path, RETURN, 3, 1, kept) as logger:
        logger.write(2, {RETURN: 4.0, "policy/own": 5.0})
        logger.write(3, {RETURN: 4.0, "policy/own": 6.0})
    assert path.read_text() == "env_steps,policy/gone,policy/own\n1,,1\n2,,5\n3,,6\n"
    said = [record.getMessage() for record in caplog.records if "goes on without" in record.getMessage()]
    assert said == [f"metrics.csv was begun by an earlier version, and goes on without {RETURN}"]


@pytest.mark.parametrize(
    ("header", "said"),
    [("env_steps,policy/kk", "policy/kk, policy/kl"), ("policy/kl,env_steps", "policy/kl, env_steps")],
)
def test_columns_that_were_renamed_are_refused(tmp_path: Path, header: str, said: str) -> None:
    (tmp_path / "metrics.csv").write_text(f"{header}\n1,1\n")
    with pytest.raises(RunDirectoryError, match=f"does not have the columns that it had at the checkpoint: {said}"):
        Kept.read(tmp_path, 24, ["env_steps", "policy/kl"])


def test_a_run_whose_columns_were_renamed_is_refused_before_it_begins(trpo_train: Command, tmp_path: Path) -> None:
    small = ("env=CartPole-v1", "sampler.num_envs=2", "sampler.steps_per_iteration=64", "total_steps=64")
    assert trpo_train(*small, "hydra.run.dir=run").status == 0
    table = tmp_path / "run" / "metrics.csv"
    table.write_bytes(table.read_bytes().replace(b"policy/kl", b"policy/kk"))
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")}
    refused = trpo_train("resume=run", "total_steps=128")
    assert refused.status == 1
    assert "metrics.csv does not have the columns that it had at the checkpoint: policy/kk, policy/kl" in refused.err
    assert {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")} == before


def test_a_new_column_is_an_error(tmp_path: Path) -> None:
    with Logger(tmp_path, RETURN, total_steps=2) as logger:
        logger.write(1, row())
        with pytest.raises(ValueError, match="policy/late"):
            logger.write(2, {**row(), "policy/late": 1.0})
