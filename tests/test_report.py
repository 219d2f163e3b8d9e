"""The report: runs found and grouped, curves over seeds, intervals that cover what they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Command

from trpo_cli.report import History, curve, interval


def written(directory: Path, task: str, algo: str, seed: int, returns: list[str], delta: float = 0.01) -> None:
    directory.mkdir(parents=True)
    config = f"choices: {{algo: {algo}}}\nenv: {{id: {task}}}\nseed: {seed}\npolicy: {{}}\nalgo: {{delta: {delta}}}\n"
    (directory / "config.yaml").write_text(config)
    (directory / "summary.json").write_text("{}")
    rows = [f"{100 * (i + 1)},{value}" for i, value in enumerate(returns)]
    (directory / "metrics.csv").write_text("\n".join(["env_steps,rollout/episode_return_mean", *rows]) + "\n")


def test_curves_and_table_of_many_runs(trpo_report: Command, tmp_path: Path) -> None:
    for seed in range(3):
        written(tmp_path / "deep" / "er" / str(seed), "Hopper-v4", "trpo", seed, ["", "1.0", str(10.0 + seed)])
        written(tmp_path / "flat" / str(seed), "Hopper-v4", "ppo", seed, ["2.0", "4.0"])
    written(tmp_path / "other", "CartPole-v1", "trpo", 0, ["5.0"])
    written(tmp_path / "fresh", "CartPole-v1", "trpo", 1, ["", ""])
    (tmp_path / "other" / "summary.json").unlink()
    done = trpo_report("deep", "flat", "other", "fresh", "deep/er/0", "--out", "out")
    assert done.status == 0, done.err
    assert "| Hopper-v4 | trpo | 3 | 300 | 11 | 10 to 12 |" in done.out
    assert "| Hopper-v4 | ppo | 3 | 200 | 4 | 4 to 4 |" in done.out
    assert "| CartPole-v1 | trpo | 1 | 100 | 5 | one seed |" in done.out
    assert "not finished: other, after 100 steps" in done.out
    assert "left out: fresh, which has no rollout/episode_return_mean yet" in done.out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "learning_curves.png",
        "learning_curves.svg",
        "results.md",
    }
    assert (tmp_path / "out" / "learning_curves.png").read_bytes().startswith(b"\x89PNG")


def test_settings_that_differ_are_told_apart_and_named(trpo_report: Command, tmp_path: Path) -> None:
    for seed in range(2):
        written(tmp_path / "runs" / f"small{seed}", "Hopper-v4", "trpo", seed, ["1.0", "3.0"])
        written(tmp_path / "runs" / f"large{seed}", "Hopper-v4", "trpo", seed, ["1.0", "7.0"], delta=0.1)
    done = trpo_report("runs", "--out", "out")
    assert "| Hopper-v4 | trpo algo.delta=0.01 | 2 | 200 | 3 |" in done.out
    assert "| Hopper-v4 | trpo algo.delta=0.1 | 2 | 200 | 7 |" in done.out


def test_where_else_rows_were_sent_makes_no_difference(trpo_report: Command, tmp_path: Path) -> None:
    for seed in range(2):
        written(tmp_path / "runs" / str(seed), "Hopper-v4", "trpo", seed, ["1.0", "3.0"])
    config = tmp_path / "runs" / "0" / "config.yaml"
    config.write_text(
        config.read_text().replace("algo: trpo}", "algo: trpo, logger: wandb}") + "logger: {mode: null}\n"
    )
    assert "| Hopper-v4 | trpo | 2 | 200 | 3 |" in trpo_report("runs", "--out", "out").out


def test_the_final_return_is_taken_where_all_have_arrived(trpo_report: Command, tmp_path: Path) -> None:
    written(tmp_path / "runs" / "a", "Hopper-v4", "trpo", 0, ["1.0", "3.0"])
    written(tmp_path / "runs" / "b", "Hopper-v4", "trpo", 1, ["1.0", "5.0", "9.0"])
    assert "| Hopper-v4 | trpo | 2 | 200 | 4 | 3 to 5 |" in trpo_report("runs", "--out", "out").out


def test_options_that_differ_stand_for_all_their_settings(trpo_report: Command, tmp_path: Path) -> None:
    for sampler, seed in (("single_path", 0), ("single_path", 1), ("vine", 0), ("vine", 1)):
        run = tmp_path / "runs" / f"{sampler}{seed}"
        written(run, "Hopper-v4", "trpo", seed, ["1.0", "3.0"])
        more = {"single_path": "{steps: 1}", "vine": f"{{steps: 2, num_states: 3, num_threads: {seed}}}"}[sampler]
        config = (run / "config.yaml").read_text().replace("algo: trpo}", f"algo: trpo, sampler: {sampler}}}")
        (run / "config.yaml").write_text(config + f"sampler: {more}\n")
    done = trpo_report("runs", "--out", "out")
    assert "| Hopper-v4 | trpo sampler=single_path | 2 |" in done.out
    assert "| Hopper-v4 | trpo sampler=vine | 2 |" in done.out


def test_any_column_against_steps_and_iterations(trpo_report: Command, tmp_path: Path) -> None:
    written(tmp_path / "runs" / "a", "Hopper-v4", "trpo", 0, ["1.0", "3.0"])
    table = tmp_path / "runs" / "a" / "metrics.csv"
    table.write_text(table.read_text().replace("rollout/episode_return_mean", "exact/return"))
    done = trpo_report("runs", "--out", "out", "--metric", "exact/return", "--against", "iterations", "env_steps")
    assert "| task | algorithm | seeds | steps | final exact/return | 95 % interval |" in done.out
    picture = (tmp_path / "out" / "learning_curves.svg").read_text()
    assert all(f"<!-- {label} -->" in picture for label in ("iterations", "environment steps", "exact/return"))
    done = trpo_report("runs", "--out", "out", "--metric", "exact/retrun")
    assert done.status == 1
    assert "metrics.csv has no column 'exact/retrun'; did you mean 'exact/return'?" in done.err


def test_curves_of_very_different_lengths_share_a_logarithmic_axis(trpo_report: Command, tmp_path: Path) -> None:
    written(tmp_path / "runs" / "long", "Hopper-v4", "trpo", 0, ["1.0"] * 70)
    for name, rows, logarithmic in (("ppo", 3, False), ("npg", 2, True)):
        written(tmp_path / "runs" / name, "Hopper-v4", name, 0, ["2.0"] * rows)
        assert trpo_report("runs", "--out", "out").status == 0
        assert ("mathdefault{10^{2}}" in (tmp_path / "out" / "learning_curves.svg").read_text()) is logarithmic


def test_no_panel_is_left_empty(trpo_report: Command, tmp_path: Path) -> None:
    for number in range(5):
        written(tmp_path / "runs" / str(number), f"Task{number}-v0", "trpo", 0, ["1.0", "3.0"])
    assert trpo_report("runs", "--out", "out").status == 0
    picture = (tmp_path / "out" / "learning_curves.svg").read_text()
    assert picture.count('<g id="axes_') == 5


def test_a_seed_twice_is_refused(trpo_report: Command, tmp_path: Path) -> None:
    for name in "ab":
        written(tmp_path / "runs" / name, "Hopper-v4", "trpo", 0, ["1.0"])
    done = trpo_report("runs", "--out", "out")
    assert done.status == 1
    assert "runs/a and runs/b are the same run, seed and all" in done.err


def test_what_is_no_run_is_said_to_be_none(trpo_report: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = trpo_report("empty", "--out", "out")
    assert done.status == 1
    assert "empty holds no run" in done.err
    (tmp_path / "empty" / "metrics.csv").write_text("nonsense\n")
    done = trpo_report("empty", "--out", "out")
    assert done.status == 1
    assert "empty is no run directory: it has no config.yaml" in done.err
    written(tmp_path / "odd", "Hopper-v4", "trpo", 0, ["much"])
    assert "odd holds no readable run" in trpo_report("odd", "--out", "out").err
    assert not (tmp_path / "out").exists()


def test_curves_stop_where_the_shortest_run_stops() -> None:
    steps = np.array([0.0, 10.0, 20.0])
    short = History(Path("short"), "t", "a", 0, {}, {}, {"env_steps": steps[:2]}, np.array([0.0, 1.0]))
    long = History(Path("long"), "t", "a", 1, {}, {}, {"env_steps": steps}, np.array([2.0, 2.0, 8.0]))
    at, returns = curve([short, long])
    assert at[0] == 0
    assert at[-1] == 10
    np.testing.assert_allclose(returns[0], at / 10)
    np.testing.assert_allclose(returns[1], 2)


@pytest.mark.parametrize("size", [5, 20])
def test_the_interval_covers_the_mean(size: int) -> None:
    """Of 200 samples some 90 % hold the true mean: the percentile bootstrap is a little narrow for few seeds."""
    samples = np.random.default_rng(1).normal(3.0, 1.0, (size, 200))
    low, high = interval(samples)
    assert 0.78 < np.mean((low < 3) & (high > 3)) < 0.99
