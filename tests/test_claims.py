"""A report claims no more than its runs support: tests, thresholds, thinned rows, what delta bounds, which return."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command, composed
from scipy import stats

from trpo_cli.columns import EVALUATION, RECENT, RETURN
from trpo_cli.config.settings import flatten
from trpo_cli.errors import RunDirectoryError
from trpo_cli.report.archive import archive
from trpo_cli.report.content import Content, make_content
from trpo_cli.report.diagnostics import compute_diagnostics, find_bounded_column, summarise
from trpo_cli.report.measures import rises
from trpo_cli.report.options import Options
from trpo_cli.report.runs import RunRecord, find
from trpo_cli.report.table import Table
from trpo_cli.statistics import steps_to

MILLION = 1_000_000
STEPS = "env_steps"


def written(directory: Path, task: str, algo: str, seed: int, columns: dict[str, Any]) -> None:
    """A finished run whose `metrics.csv` has these columns; a number stands for the last of two rows, after a 1."""
    directory.mkdir(parents=True)
    rows = {name: np.atleast_1d(values) for name, values in {STEPS: [MILLION // 2, MILLION], **columns}.items()}
    rows = {name: np.array([1.0, *values]) if len(values) == 1 else values for name, values in rows.items()}
    total = int(max(rows[STEPS]))
    node = {"choices": {"algo": algo}, "env": {"id": task}, "seed": seed, "policy": {}, "total_steps": total}
    node["algo"] = {"delta": 0.01}
    (directory / "config.yaml").write_text(json.dumps(node))
    (directory / "summary.json").write_text("{}")
    lines = [
        [repr(float(cell)) if np.isfinite(cell) else "" for cell in row] for row in zip(*rows.values(), strict=True)
    ]
    (directory / "metrics.csv").write_text("\n".join(map(",".join, [list(rows), *lines])) + "\n")


def group(folder: Path, task: str, algo: str, finals: list[float], column: str = RETURN, **columns: Any) -> None:
    """A run for each final return."""
    for seed, final in enumerate(finals):
        written(folder / task / algo / str(seed), task, algo, seed, {column: final, **columns})


def told(folder: Path, **options: Any) -> Content:
    """A report whose figures nobody draws."""
    return make_content(find([folder]), Options(**options))


def table(made: Content, name: str) -> list[dict[str, Any]]:
    """The rows of one of its tables."""
    (found,) = [s.table for s in made.sections if isinstance(s.table, Table) and s.table.name == name]
    return [dict(zip(found.columns, row, strict=True)) for row in found.rows]


def caption(made: Content, title: str) -> str:
    (found,) = [s.caption for s in made.sections if s.title == title]
    return found


GOOD, FAIR, POOR = [9.0, 10.0, 11.0, 10.5, 9.5], [8.0, 10.5, 9.0, 9.7, 8.2], [1.0, 2.0, 1.5, 2.5, 3.0, 2.2]


def test_every_other_group_against_the_one_that_is_named(tmp_path: Path) -> None:
    for algo, finals in (("trpo", GOOD), ("npg", FAIR), ("ppo", POOR)):
        group(tmp_path, "Hopper-v4", algo, finals)
    made = told(tmp_path, versus=["trpo"])
    first, second = table(made, "versus")
    assert (first["A"], first["B"], second["B"]) == ("trpo", "npg", "ppo")
    for row, other in ((first, FAIR), (second, POOR)):
        expected = stats.ttest_ind(GOOD, other, equal_var=False)
        low, high = expected.confidence_interval()
        assert row["A less B"] == pytest.approx(np.mean(GOOD) - np.mean(other))
        assert row["p"] == pytest.approx(expected.pvalue)
        assert str(row["95 % interval of the difference"]) == f"{low:.5g} to {high:.5g}"
    assert second["p (Holm)"] == pytest.approx(2 * second["p"])
    assert first["p (Holm)"] == first["p"] > 0.05
    assert (second["P(A > B)"], second["runs of A"], second["runs of B"], second["steps"]) == (1, 5, 6, MILLION)
    assert first["P(A > B)"] == stats.mannwhitneyu(GOOD, FAIR).statistic / 25
    assert "p (Holm) is corrected for the number of tests in the table" in caption(made, "Group against group")
    (only,) = table(told(tmp_path, versus=["ppo", "npg"]), "versus")
    assert (only["A"], only["B"]) == ("ppo", "npg")


def test_all_tasks_together_are_compared_task_by_task(tmp_path: Path) -> None:
    """However many runs a task has, it counts once; and a group that is far ahead in every task is ahead."""
    for task, scale in (("Hopper-v4", 1.0), ("Walker2d-v4", 100.0)):
        group(tmp_path, task, "trpo", [scale * value for value in GOOD])
        group(tmp_path, task, "ppo", [scale * value for value in POOR])
    rows = table(told(tmp_path, versus=["trpo"]), "versus")
    assert [row["A"] for row in rows] == ["trpo"] * 3
    together = rows[2]
    assert together["task"] == "2 tasks, normalised"
    gains = [(np.mean(GOOD) - np.mean(POOR)) * scale / (11 * scale - 1) for scale in (1.0, 100.0)]
    assert together["A less B"] == pytest.approx(np.mean(gains))
    assert together["p"] < rows[0]["p"]
    assert together["p (Holm)"] == pytest.approx(3 * together["p"])


def test_under_five_runs_there_is_no_test(tmp_path: Path) -> None:
    group(tmp_path, "Hopper-v4", "trpo", GOOD)
    group(tmp_path, "Hopper-v4", "ppo", POOR[:4])
    made = told(tmp_path, versus=["trpo"])
    (row,) = table(made, "versus")
    assert (row["95 % interval of the difference"], row["p"], row["p (Holm)"]) == ("under 5 runs", None, None)
    assert row["95 % interval of P"] == "under 5 runs"
    ppo, trpo = table(made, "results")
    assert str(ppo["95 % interval"]) == "1 to 2.5 (min to max)"
    assert str(trpo["95 % interval"]) == "{:.5g} to {:.5g}".format(*stats.ttest_1samp(GOOD, 0).confidence_interval())
    assert "of fewer than 5 runs, min to max" in caption(made, "Results")
    assert "of fewer than 5 runs, min to max" in caption(made, "Learning curves")
    (curves,) = [s for s in made.sections if s.title == "Learning curves"]
    assert [key.name for key in curves.figures[0].keys] == ["ppo (4 runs, min to max)", "trpo (5 runs)"]


def test_a_group_that_is_not_there_cannot_be_compared(tmp_path: Path) -> None:
    group(tmp_path, "Hopper-v4", "trpo", GOOD)
    group(tmp_path, "Walker2d-v4", "ppo", GOOD)
    with pytest.raises(RunDirectoryError, match="--versus: no group is called 'trop'; did you mean 'trpo'"):
        told(tmp_path, versus=["trop"])
    with pytest.raises(RunDirectoryError, match="--versus: no task has runs of both trpo and another"):
        told(tmp_path, versus=["trpo"])


def test_two_runs_compare_without_a_claim(tmp_path: Path) -> None:
    group(tmp_path, "Hopper-v4", "trpo", [3.0])
    group(tmp_path, "Hopper-v4", "ppo", [1.0])
    (row,) = table(told(tmp_path, versus=["trpo"]), "versus")
    assert (row["A less B"], row["p"], row["P(A > B)"], row["95 % interval of P"]) == (2, None, 1, "under 5 runs")


def test_the_best_published_number_is_of_the_same_algorithm_steps_and_of_several_seeds(tmp_path: Path) -> None:
    """Of PPO on Hopper-v4 there are 3128 after three million steps, of TRPO 3618 of a single run."""
    finals = [3300.0, 3400.0, 3500.0, 3450.0, 3350.0]
    for algo in ("trpo", "ppo"):
        group(tmp_path, "Hopper-v4", algo, finals, EVALUATION, **{RETURN: 3000.0})
    made = told(tmp_path, compare=True)
    ppo, trpo = table(made, "published")
    assert (ppo["best published"], ppo["source"], trpo["best published"], trpo["source"]) == (
        2609,
        "Tianshou",
        3372,
        "sb3-contrib",
    )
    assert (ppo["kind of return: ours; theirs"], ppo["mean"]) == ("evaluation; evaluation", 3400)
    expected = stats.ttest_ind_from_stats(3400, np.std(finals, ddof=1), 5, 2609, 701, 10, equal_var=False)
    assert ppo["p"] == pytest.approx(expected.pvalue)
    assert {row["threshold"] for row in table(made, "efficiency")} == {3372}
    group(tmp_path / "more", "Hopper-v4", "trpo", finals)
    (row,) = table(told(tmp_path / "more", compare=True), "published")
    assert row["kind of return: ours; theirs"] == "training, last 100 episodes; unstated"


@pytest.mark.parametrize(("algo", "steps"), [("trpo", 200_000), ("a2c", MILLION)])
def test_where_nothing_published_compares_there_is_no_published_threshold(
    tmp_path: Path, algo: str, steps: int
) -> None:
    for seed in range(5):
        columns = {STEPS: [steps // 2, steps], RETURN: [0.0, 100.0 + seed]}
        written(tmp_path / str(seed), "Hopper-v4", algo, seed, columns)
    group(tmp_path, "CartPole-v1", "trpo", [10.0])
    made = told(tmp_path, compare=True)
    _, row = table(made, "efficiency")
    assert row["threshold"] == pytest.approx(0.9 * 102)
    assert row["which is"] == (
        "90 % of the way to the best group's final: no published number of these algorithms has as many steps and "
        "several seeds"
    )
    assert "Hopper-v4 0 to 104 (best run)" in caption(made, "All tasks together")
    assert not [s for s in made.sections if s.title == "Against the best published numbers"]


def test_thresholds_add_up(trpo_report: Command, tmp_path: Path) -> None:
    for task in ("Hopper-v4", "Ant-v4"):
        group(tmp_path / "runs", task, "trpo", [10.0])
    done = trpo_report("runs", "--out", "out", "--threshold", "Hopper-v4=5", "--threshold", "3", "7")
    assert done.status == 0, done.err
    with (tmp_path / "out" / "efficiency.csv").open() as file:
        rows = [(row["task"], row["threshold"]) for row in csv.DictReader(file)]
    assert rows == [("Ant-v4", "3.0"), ("Ant-v4", "7.0"), ("Hopper-v4", "5.0")]
    done = trpo_report("runs", "--out", "out", "--against", "env_steps", "--against", "iterations", "--by", "algo")
    assert (tmp_path / "out" / "learning_curves.svg").read_text().count('<g id="axes_') == 4


def noisy(path: Path, rows: int) -> None:
    """A run of so many rows whose return and KL do not grow evenly."""
    generator = np.random.default_rng(0)
    progress = np.arange(1.0, rows + 1)
    columns = {
        STEPS: 10 * progress,
        RETURN: np.sqrt(progress) + generator.normal(0, 1, rows),
        "policy/kl": generator.exponential(0.01, rows),
        "trust_region/backtracks": generator.integers(0, 4, rows).astype(float),
        "trust_region/accepted": (generator.random(rows) > 0.2).astype(float),
    }
    written(path, "Hopper-v4", "trpo", 0, columns)


def test_an_archive_knows_what_all_rows_came_to(tmp_path: Path) -> None:
    noisy(tmp_path / "run", 1000)
    archive(find([tmp_path / "run"]), tmp_path / "first")
    archive(find([tmp_path / "first"]), tmp_path / "second")
    (run,), (first,), (second,) = (find([tmp_path / name]) for name in ("run", "first", "second"))
    assert (first.count_rows(), run.count_rows(), first.is_thinned(), run.is_thinned()) == (98, 1000, True, False)
    assert summarise(run) == summarise(first) == summarise(second)
    assert (
        summarise(run)["largest KL / δ"]
        == compute_diagnostics(run)["KL / δ"].max()
        > compute_diagnostics(first)["KL / δ"].max()
    )
    for threshold in np.linspace(1, 32, 63):
        exact = steps_to(threshold, run.rows[STEPS], run.rows[RETURN])
        assert exact == steps_to(threshold, *rises(run, RETURN)) == steps_to(threshold, *rises(second, RETURN))
    for name in ("efficiency", "diagnostics"):
        one, other = (table(told(tmp_path / folder, thresholds={"": [20.0]}), name) for folder in ("run", "second"))
        assert one == other
    assert "only the rows that were kept" not in str(told(tmp_path / "second").sections)


def test_what_comes_of_thinned_rows_says_so(tmp_path: Path) -> None:
    """As it is of archives that were made before they kept it, and of columns whose rises are not kept."""
    noisy(tmp_path / "run", 1000)
    archive(find([tmp_path / "run"]), tmp_path / "archive")
    note = "Of 1 archived run, only the rows that were kept count, 98 or fewer of each."
    assert note in str(told(tmp_path / "archive", metric="policy/kl").sections)
    (kept,) = (tmp_path / "archive").rglob("all_rows.json")
    kept.unlink()
    notes = {s.table.name: s.table.note for s in told(tmp_path / "archive").sections if s.table}
    assert note in notes["efficiency"]
    assert note in notes["diagnostics"]
    kept.write_text('{"rises": {"a": [[1]]}}')
    (broken,) = find([tmp_path / "archive"])
    assert broken.status == "broken"
    assert find([tmp_path / "run"])[0].whole is None


def test_a_run_that_lost_no_row_needs_nothing_beside_it(tmp_path: Path) -> None:
    noisy(tmp_path / "run", 100)
    archive(find([tmp_path / "run"]), tmp_path / "archive")
    assert not list((tmp_path / "archive").rglob("all_rows.json"))
    assert "only the rows that were kept" not in str(told(tmp_path / "archive").sections)


@pytest.mark.parametrize(
    ("overrides", "column"),
    [
        (("algo=trpo",), "policy/kl"),
        (("algo=npg",), "policy/kl"),
        (("algo=trpo_max_kl",), "policy/max_kl"),
        (("algo=trpo_empirical_fisher",), "policy/kl"),
        (("algo=vpg",), None),
        (("algo=npg_fixed",), None),
        (("algo=vpg", "algo/step=line_search"), "policy/kl"),
    ],
)
def test_the_kl_is_compared_with_delta_only_where_delta_bounds_it(overrides: tuple[str, ...], column: str) -> None:
    columns = ("policy/kl", "policy/max_kl", "trust_region/delta", "trust_region/backtracks")
    rows = {name: np.array([place + 1.0]) for place, name in enumerate(columns)}
    record = RunRecord(Path("run"), "finished", settings=dict(flatten(composed(*overrides))), rows=rows)
    assert find_bounded_column(record) == column
    assert compute_diagnostics(record).get("KL / δ", [None])[0] == (None if column is None else rows[column][0] / 3)


def test_the_headline_says_which_return_it_is_and_shows_the_others(tmp_path: Path) -> None:
    more = {EVALUATION: 8.0, RECENT: [2.0, np.nan], "rollout/episodes": [30.0, 60.0]}
    group(tmp_path, "HalfCheetah-v4", "trpo", [3.0, 5.0], **more)
    made = told(tmp_path)
    (row,) = table(made, "results")
    assert (row["final training return"], row["final evaluation"]) == (4, 8)
    assert row["final training return of the last iteration"] == 2, "where no episode ended, the last that did counts"
    assert caption(made, "Results").startswith(
        "Training return: the mean of the last 100 episodes, with sampled actions; it lags behind the policy in a "
        "short run. Evaluation: the latest mean of episodes with the most likely actions. Training return of the last "
        "iteration: the mean of the episodes that ended in it, with sampled actions."
    )
    assert (
        "HalfCheetah-v4, trpo: with fewer than 200 episodes, the last 100 are at least half of a run" in made.notices[0]
    )
    (row,) = table(told(tmp_path, metric=EVALUATION), "results")
    assert (row["final evaluation"], row["final training return"]) == (8, 4)
    assert not told(tmp_path, metric=EVALUATION).notices


def stopped(folder: Path, algo: str, ends: dict[int, float], is_early: bool = True) -> None:
    """Runs of two rows with these last steps and returns, which `stop.at_return=400` ended if they are early."""
    for end, final in ends.items():
        path = folder / algo / str(end)
        written(path, "CartPole-v1", algo, end, {STEPS: [end // 2, end], RETURN: [20.0, final]})
        config = (path / "config.yaml").read_text()
        (path / "config.yaml").write_text(config.replace(f'"total_steps": {end}', '"total_steps": 20000'))
        why = {"by": "stop.at_return", "given": 400.0, "reached": 420.0, "env_steps": end} if is_early else None
        (path / "summary.json").write_text(json.dumps({"stopped": why}))


def test_of_runs_that_ended_because_they_succeeded_the_steps_are_compared(tmp_path: Path) -> None:
    stopped(tmp_path, "ppo", {8000: 28.0, 10_000: 30.0, 12_000: 32.0})
    stopped(tmp_path, "trpo", {4000: 24.0, 6000: 26.0})
    made = told(tmp_path)
    assert made.lead == (
        "This report compares ppo and trpo on CartPole-v1, with 2 to 3 runs each of 4,000 to 12,000 environment steps. "
        "All runs ended at stop.at_return=400, and the steps until then are on average 10,000 (min to max 8,000 to "
        "12,000) with ppo and 5,000 (min to max 4,000 to 6,000) with trpo."
    )
    assert not made.notices
    for name in "bcdef":
        stopped(tmp_path / name, name, {5000: 25.0})
    assert told(tmp_path).lead.endswith("All runs ended at stop.at_return=400, after 4,000 to 12,000 steps.")
    for name in "bcdef":
        shutil.rmtree(tmp_path / name)
    assert [tuple(row.values()) for row in table(made, "stops")] == [
        ("CartPole-v1", "ppo", "400", "3 of 3", 10_000, "8,000 to 12,000"),
        ("CartPole-v1", "trpo", "400", "2 of 2", 5000, "4,000 to 6,000"),
    ]
    assert "The rows of CartPole-v1 are of different steps, so they do not compare." in caption(made, "Results")
    stopped(tmp_path, "trpo", {20_000: 30.0}, is_early=False)
    made = told(tmp_path)
    trpo = table(made, "stops")[1]
    assert (trpo["runs that it ended"], trpo["mean steps"], trpo["fewest to most"]) == (
        "2 of 3",
        None,
        "4,000 to 6,000",
    )
    assert "At 4,000 steps, which all have reached, the highest mean training return is that of trpo, 22" in made.lead


def test_a_run_that_ended_before_a_threshold_is_not_one_that_never_reaches_it(tmp_path: Path) -> None:
    """The median is known where it is the same however much later such a run would have reached the threshold."""
    stopped(tmp_path, "trpo", {4000: 24.0, 8000: 28.0, 10_000: 30.0})
    made = told(tmp_path, thresholds={"": [27.0, 29.0, 40.0]})
    found = [
        (row["runs that reach it"], row["median steps"], row["fewest to most"]) for row in table(made, "efficiency")
    ]
    assert found == [
        ("2 of 3; stop.at_return ended 1 before", None, "8,000 to 10,000"),
        ("1 of 3; stop.at_return ended 2 before", None, "10,000"),
        ("0 of 3; stop.at_return ended 3 before", None, None),
    ]
    stopped(tmp_path / "late", "trpo", {4000: 24.0, 5000: 25.0, 20_000: 21.0})
    (row,) = table(told(tmp_path / "late", thresholds={"": [24.0]}), "efficiency")
    assert (row["runs that reach it"], row["median steps"]) == ("2 of 3; stop.at_return ended 1 before", 5000)
    (note,) = [s.table.note for s in made.sections if s.table and s.table.name == "efficiency"]
    assert "where it depends on a run that stop.at_return ended before" in note


def test_groups_of_different_lengths_are_ranked_where_all_have_arrived(tmp_path: Path) -> None:
    """The longer runs are higher at their end, but lower after as many steps."""
    for task in ("Hopper-v4", "Ant-v4"):
        group(tmp_path, task, "trpo", GOOD)
        for seed in range(5):
            columns = {STEPS: [MILLION, 2 * MILLION], RETURN: [2.0 + seed / 10, 30.0]}
            written(tmp_path / task / "ppo" / str(seed), task, "ppo", seed, columns)
    made = told(tmp_path / "Hopper-v4")
    assert made.lead == (
        "This report compares ppo and trpo on Hopper-v4, with 5 runs each of 1 M to 2 M environment steps. At 1 M "
        "steps, which all have reached, the highest mean training return is that of trpo, 10 (95 % interval 9.0 to "
        "11.0), and its interval overlaps with no other."
    )
    both = told(tmp_path)
    said = (
        "At the step that all runs of a task have reached, the highest mean training return is that of trpo on 2 of 2"
    )
    assert said in both.lead
    ppo, trpo = table(both, "aggregate")
    assert ppo["the mean of normalised scores"] < trpo["the mean of normalised scores"]


def test_evaluations_compare_groups_of_which_some_ended_no_episode(tmp_path: Path) -> None:
    group(tmp_path, "Hopper-v4", "trpo", [3.0, 5.0], **{EVALUATION: 8.0})
    group(tmp_path, "Hopper-v4", "ppo", [np.nan] * 2, **{EVALUATION: [7.0, 9.0], RETURN: [np.nan, np.nan]})
    made = told(tmp_path)
    assert made.notices == ["no run of ppo has ended an episode while it sampled: the returns shown are evaluations"]
    assert "compares ppo and trpo" in made.lead
    assert "The highest mean evaluation is that of ppo, 9" in made.lead
    made = told(tmp_path, metric=RETURN)
    assert "of 1 M environment steps, without ppo, which has no training return. The mean" in made.lead
    group(tmp_path, "Hopper-v4", "npg", [4.0])
    assert "compares npg and trpo on Hopper-v4, with 1 to 2 runs each of 1 M environment steps, without" in (
        told(tmp_path).lead
    ), "not all groups have evaluations"


def test_an_algorithm_that_has_a_return_in_one_task_only(tmp_path: Path) -> None:
    group(tmp_path, "Hopper-v4", "ppo", [3.0])
    for task in ("Swimmer-v4", "Walker2d-v4"):
        group(tmp_path, task, "ppo", [np.nan], **{RETURN: [np.nan, np.nan]})
    assert "shows ppo on Hopper-v4" in told(tmp_path).lead
    assert "without ppo on Swimmer-v4 and Walker2d-v4, which has no training return." in told(tmp_path).lead


def test_few_episodes_are_old_or_the_short_ones(tmp_path: Path) -> None:
    for name, envs, more in (("few", 8, {}), ("many", 64, {EVALUATION: 8.0})):
        path = tmp_path / name
        written(path, "Hopper-v4", name, 0, {RETURN: 3.0, "rollout/episodes": [30.0, 150.0], **more})
        config = json.loads((path / "config.yaml").read_text())
        (path / "config.yaml").write_text(json.dumps({**config, "sampler": {"num_envs": envs}}))
    assert told(tmp_path).notices == [
        "Hopper-v4, few: with fewer than 200 episodes, the last 100 are at least half of a run, so the training return "
        "lags behind the policy",
        "Hopper-v4, many: at least 20 % of the episodes that were begun have not ended, and the training return counts "
        "only those that have, the short ones first: see the evaluation",
    ]


def test_an_archive_below_a_folder_is_left_out_unless_it_is_named(trpo_report: Command, tmp_path: Path) -> None:
    group(tmp_path / "published", "Hopper-v4", "ppo", [5.0])
    archive(find([tmp_path / "published"]), tmp_path / "runs" / "reference")
    done = trpo_report("runs")
    only = "error: runs holds no run: no metrics.csv, config.yaml or train.log at or below it"
    assert done.err == f"{only}; to report on an archive, name it: runs/reference"
    group(tmp_path / "runs", "Hopper-v4", "trpo", [3.0])
    done = trpo_report("runs", "--out", "out")
    assert done.out.startswith("runs/reference is an archive and is left out; name it to include it in the report\n")
    assert (" trpo " in done.out, " ppo " in done.out) == (True, False)
    for folders in (("runs", "runs/reference"), ("runs/reference", "runs/Hopper-v4")):
        done = trpo_report(*folders, "--out", "out")
        assert (" trpo " in done.out, " ppo " in done.out, "left out" in done.out) == (True, True, False)
    assert " ppo " in trpo_report("runs/reference/Hopper-v4", "--out", "out").out
