"""The report: runs found and grouped, curves over seeds, intervals that cover what they should."""

from __future__ import annotations

import csv
import fcntl
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command
from numpy.testing import assert_allclose

from trpo_cli.columns import RETURN
from trpo_cli.report.archive import select_rows
from trpo_cli.report.content import make_content
from trpo_cli.report.diagnostics import compute_diagnostics
from trpo_cli.report.groups import natural_key
from trpo_cli.report.measures import curve, series
from trpo_cli.report.options import Options
from trpo_cli.report.published import find_published
from trpo_cli.report.runs import RunRecord, find
from trpo_cli.run.lock import Lock, is_held

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def written(
    directory: Path, task: str, algo: str, seed: int, returns: list[str], delta: float = 0.01, last: int | None = None
) -> None:
    directory.mkdir(parents=True)
    config = f"choices: {{algo: {algo}}}\nenv: {{id: {task}}}\nseed: {seed}\npolicy: {{}}\nalgo: {{delta: {delta}}}\n"
    config += "total_steps: 300\n"
    (directory / "config.yaml").write_text(config)
    (directory / "summary.json").write_text("{}")
    steps = [*(100 * (i + 1) for i in range(len(returns) - 1)), last or 100 * len(returns)]
    rows = [f"{step},{value}" for step, value in zip(steps, returns, strict=True)]
    (directory / "metrics.csv").write_text("\n".join(["env_steps,rollout/episode_return_mean", *rows]) + "\n")


def results(directory: Path) -> str:
    """The report as Markdown."""
    return (directory / "out" / "results.md").read_text()


def test_numbers_from_infos_have_a_table(trpo_tables: Command, tmp_path: Path) -> None:
    for seed in range(2):
        written(tmp_path / "runs" / str(seed), "Hopper-v4", "trpo", seed, ["1.0", "4.0"])
        path = tmp_path / "runs" / str(seed) / "metrics.csv"
        head, first, last = path.read_text().splitlines()
        rows = [f"{head},rollout/info/x,eval/info/x,rollout/info/y", f"{first},,,", f"{last},{1 + seed},7,"]
        path.write_text("\n".join(rows) + "\n")
    assert trpo_tables("runs", "--out", "out").status == 0
    rows = (tmp_path / "out" / "infos.csv").read_text().splitlines()
    assert rows[1:] == [
        "Hopper-v4,trpo,x,2,1.5,1 to 2 (min to max),7.0,7 to 7 (min to max)",
        "Hopper-v4,trpo,y,2,,,,",
    ]
    assert trpo_tables("runs", "--out", "other", "--metric", "rollout/info/x").status == 0


def test_curves_and_table_of_many_runs(trpo_report: Command, tmp_path: Path) -> None:
    for seed in range(3):
        written(tmp_path / "deep" / "er" / str(seed), "Hopper-v4", "trpo", seed, ["", "1.0", str(10.0 + seed)])
        written(tmp_path / "flat" / str(seed), "Hopper-v4", "ppo", seed, ["2.0", "4.0"])
    written(tmp_path / "other", "CartPole-v1", "trpo", 0, ["5.0"])
    written(tmp_path / "fresh", "CartPole-v1", "trpo", 1, ["", ""])
    (tmp_path / "other" / "summary.json").unlink()
    done = trpo_report("deep", "flat", "other", "fresh", "deep/er/0", "--out", "out")
    assert done.status == 0, done.err
    assert "| Hopper-v4 | trpo | 3 | 300 | 11 | 10 to 12 (min to max) | 11 |" in results(tmp_path)
    assert "| Hopper-v4 | ppo | 3 | 200 | 4 | 4 to 4 (min to max) |" in results(tmp_path)
    assert "| CartPole-v1 | trpo | 1 | 100 | 5 | one seed |" in results(tmp_path)
    assert "other stopped: before its first checkpoint" in done.out
    assert "1 run of CartPole-v1 (1 trpo) has ended no episode: no training return\n" in done.out
    names = ("results", "aggregate", "efficiency", "speed", "shared_hyperparameters", "runs")
    tables = {f"{name}.csv" for name in names}
    figures = {f"{name}.{kind}" for name in ("learning_curves", "profiles") for kind in ("png", "svg")}
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert found == {"report.html", "results.md", *tables, *figures}
    assert (tmp_path / "out" / "learning_curves.png").read_bytes().startswith(b"\x89PNG")


def test_settings_that_differ_are_told_apart_and_named(trpo_tables: Command, tmp_path: Path) -> None:
    for seed in range(2):
        written(tmp_path / "runs" / f"small{seed}", "Hopper-v4", "trpo", seed, ["1.0", "3.0"])
        written(tmp_path / "runs" / f"large{seed}", "Hopper-v4", "trpo", seed, ["1.0", "7.0"], delta=0.1)
    assert trpo_tables("runs", "--out", "out").status == 0
    assert "| Hopper-v4 | trpo algo.delta=0.01 | 2 | 200 | 3 |" in results(tmp_path)
    assert "| Hopper-v4 | trpo algo.delta=0.1 | 2 | 200 | 7 |" in results(tmp_path)


def test_a_key_that_an_old_run_lacks_makes_no_difference(trpo_tables: Command, tmp_path: Path) -> None:
    for seed, more in enumerate(("", ", rescale_action: auto, stack: 1, wrappers: [], hide: null, observe: null")):
        written(tmp_path / str(seed), f"Hopper-v4{more}", "trpo", seed, ["1.0", "3.0"])
    assert trpo_tables("0", "1", "--out", "out").status == 0
    assert "| Hopper-v4 | trpo | 2 | 200 | 3 |" in results(tmp_path)


def test_where_else_rows_were_sent_makes_no_difference(trpo_tables: Command, tmp_path: Path) -> None:
    for seed in range(2):
        written(tmp_path / "runs" / str(seed), "Hopper-v4", "trpo", seed, ["1.0", "3.0"])
    config = tmp_path / "runs" / "0" / "config.yaml"
    config.write_text(
        config.read_text().replace("algo: trpo}", "algo: trpo, logger: wandb}") + "logger: {mode: null}\n"
    )
    assert trpo_tables("runs", "--out", "out").status == 0
    assert "| Hopper-v4 | trpo | 2 | 200 | 3 |" in results(tmp_path)


def test_the_final_return_is_taken_where_all_have_arrived(trpo_tables: Command, tmp_path: Path) -> None:
    written(tmp_path / "runs" / "a", "Hopper-v4", "trpo", 0, ["1.0", "3.0"])
    written(tmp_path / "runs" / "b", "Hopper-v4", "trpo", 1, ["1.0", "5.0", "9.0"])
    assert trpo_tables("runs", "--out", "out").status == 0
    assert "| Hopper-v4 | trpo | 2 | 200 | 4 | 3 to 5 (min to max) |" in results(tmp_path)


def test_options_that_differ_stand_for_all_their_settings(trpo_tables: Command, tmp_path: Path) -> None:
    for sampler, seed in (("single_path", 0), ("single_path", 1), ("vine", 0), ("vine", 1)):
        run = tmp_path / "runs" / f"{sampler}{seed}"
        written(run, "Hopper-v4", "trpo", seed, ["1.0", "3.0"])
        more = {"single_path": "{steps: 1}", "vine": f"{{steps: 2, num_states: 3, num_threads: {seed}}}"}[sampler]
        config = (run / "config.yaml").read_text().replace("algo: trpo}", f"algo: trpo, sampler: {sampler}}}")
        (run / "config.yaml").write_text(config + f"sampler: {more}\n")
    assert trpo_tables("runs", "--out", "out").status == 0
    assert "| Hopper-v4 | trpo sampler=single_path | 2 |" in results(tmp_path)
    assert "| Hopper-v4 | trpo sampler=vine | 2 |" in results(tmp_path)


def test_any_column_against_steps_and_iterations(trpo_report: Command, tmp_path: Path) -> None:
    written(tmp_path / "runs" / "a", "Hopper-v4", "trpo", 0, ["1.0", "3.0"])
    table = tmp_path / "runs" / "a" / "metrics.csv"
    table.write_text(table.read_text().replace("rollout/episode_return_mean", "exact/return"))
    done = trpo_report("runs", "--out", "out", "--metric", "exact/return", "--against", "iterations", "env_steps")
    heads = "| task | algorithm | runs | iterations | discounted return | 95 % interval | best |"
    assert heads in results(tmp_path)
    picture = (tmp_path / "out" / "learning_curves.svg").read_text()
    assert all(f"<!-- {label} -->" in picture for label in ("iterations", "discounted return"))
    assert "environment steps" not in picture, "an exact sampler takes none"
    done = trpo_report("runs", "--out", "out", "--metric", "exact/retrun")
    assert done.status == 1
    assert "metrics.csv has no column 'exact/retrun'; did you mean 'exact/return'?" in done.err


def test_runs_are_compared_on_the_headline_that_most_of_them_have(trpo_tables: Command, tmp_path: Path) -> None:
    """Each names its own; those of earlier versions are known by their columns. The others are told of."""
    columns = "env_steps,{},policy/kl\n1,{},0\n2,{},0\n"
    for seed, (name, algo) in enumerate((("named", "mine"), ("named_too", "mine"), ("old", "cpi"))):
        column = "exact/return" if name == "old" else "my/return"
        written(tmp_path / "runs" / name, "FrozenLake-v1", algo, seed, ["1.0"])
        (tmp_path / "runs" / name / "metrics.csv").write_text(columns.format(column, 0.25, 0.5 + seed))
        if name != "old":
            (tmp_path / "runs" / name / "headline.txt").write_text("my/return\n")
    done = trpo_tables("runs", "--out", "out")
    assert done.status == 0, done.err
    assert "1 run of FrozenLake-v1 (1 cpi) has no my/return, and is in no group; see --metric exact/return" in done.out
    assert "| FrozenLake-v1 | mine | 2 | 2 | 1 | 0.5 to 1.5 (min to max) | 1 |" in results(tmp_path)
    assert [row["final_training_return"] for row in rows_of(tmp_path / "out" / "runs.csv")] == ["0.5", "1.5", "2.5"]
    done = trpo_tables("runs/old", "--archive", "archive")
    assert (
        "| task | algorithm | runs | iterations | discounted return |"
        in (tmp_path / "archive/report/results.md").read_text()
    )
    copy = tmp_path / "archive" / "FrozenLake-v1" / "cpi" / "seed2"
    assert (copy / "headline.txt").read_text() == "exact/return\n"


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


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_seed_twice_counts_once_by_the_run_that_got_further(trpo_tables: Command, tmp_path: Path) -> None:
    written(tmp_path / "runs" / "a", "Hopper-v4", "trpo", 0, ["1.0"])
    written(tmp_path / "runs" / "b", "Hopper-v4", "trpo", 0, ["1.0", "3.0"])
    done = trpo_tables("runs", "--out", "out")
    assert "| Hopper-v4 | trpo | 1 | 200 | 3 |" in results(tmp_path)
    assert "runs/a is a duplicate: finished; the same run, seed and all, as runs/b, which got further" in done.out
    assert [row["status"] for row in rows_of(tmp_path / "out" / "runs.csv")] == ["duplicate", "finished"]


def test_every_state_of_a_run_is_shown(trpo_tables: Command, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for seed, name in enumerate(("broken", "failed", "finished", "running", "stopped", "traceback")):
        written(runs / name, "Hopper-v4", "trpo", seed, ["1.0", "3.0"])
        if name != "finished":
            (runs / name / "summary.json").unlink()
    (runs / "broken" / "metrics.csv").write_text("env_steps,rollout/episode_return_mean\n100,much\n")
    log = "2026-01-02 03:04:05,678 {} the run ended early{}\n"
    (runs / "failed" / "train.log").write_text(log.format("ERROR", ": the floor gave way\nand more"))
    (runs / "traceback" / "train.log").write_text(log.format("ERROR", "\nTraceback:\n  line\nValueError: odd"))
    again = "2026-01-02 03:04:06,000 INFO going on\n"
    (runs / "stopped" / "train.log").write_text(log.format("ERROR", ": the floor gave way") + again)
    (runs / "stopped" / "checkpoints").mkdir()
    (runs / "stopped" / "checkpoints" / "step_000000000200.safetensors").touch()
    (runs / "early").mkdir()
    (runs / "early" / "train.log").write_text(log.format("ERROR", ": no floor"))
    held = Lock(runs / "running" / ".lock")
    try:
        done = trpo_tables("runs", "--out", "out")
    finally:
        held.release()
    assert done.status == 0, done.err
    found = {Path(row["directory"]).name: (row["status"], row["note"]) for row in rows_of(tmp_path / "out/runs.csv")}
    assert found.pop("broken") == (
        "broken",
        "metrics.csv: could not convert string 'much' to float64 at row 0, column 2.",
    )
    assert found == {
        "early": ("failed", "no floor"),
        "failed": ("failed", "the floor gave way"),
        "finished": ("finished", ""),
        "running": ("running", "200 of 300 steps"),
        "stopped": ("stopped", "goes on with: trpo-train resume=runs/stopped"),
        "traceback": ("failed", "ValueError: odd"),
    }
    for file in ("report.html", "results.md"):
        assert "the floor gave way" in (tmp_path / "out" / file).read_text()
    assert "| Hopper-v4 | trpo | 1 |" in results(tmp_path)
    assert "runs/failed failed: the floor gave way" in done.out
    assert "Hopper-v4, trpo: averages over the 1 finished of 5 runs" in done.out


def test_to_ask_whether_a_run_is_held_keeps_nobody_from_holding_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shared lock for an instant, as `is_held` takes it: `Lock` waits it out."""
    assert not is_held(tmp_path / ".lock")
    with (tmp_path / ".lock").open("w") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        monkeypatch.setattr("trpo_cli.run.lock.time.sleep", lambda _: fcntl.flock(asking, fcntl.LOCK_UN))
        held = Lock(tmp_path / ".lock")
    assert is_held(tmp_path / ".lock")
    held.release()


@pytest.mark.parametrize(
    ("file", "text", "note"),
    [
        ("config.yaml", "a: [", "config.yaml, line 1, column 5: the file ends within a bracket"),
        ("config.yaml", "choices: {}\nenv: {id: t}\nseed: 0\npolicy: {}\n", "KeyError: 'algo'"),
        ("metrics.csv", "env_steps,b\n1,2\n3\n", "metrics.csv: the number of columns changed"),
        ("metrics.csv", "env_steps,b\n1,2,3\n", "metrics.csv has 2 columns and rows of 3"),
        ("metrics.csv", "env_steps,b\n5,2\n3,2\n", "metrics.csv: env_steps do not grow"),
        ("metrics.csv", "b\n5\n", "metrics.csv has no column env_steps"),
        ("summary.json", "{", "summary.json cannot be read"),
        ("summary.json", '{"wall_seconds": "long"}', "could not convert string to float"),
        (
            "summary.json",
            '{"stopped": {"by": "stop.at_return", "given": NaN, "reached": 1}}',
            "summary.json: stop.at_return is nan",
        ),
    ],
)
def test_damage_is_told_and_stops_nothing(tmp_path: Path, file: str, text: str, note: str) -> None:
    written(tmp_path / "runs" / "a", "Hopper-v4", "trpo", 0, ["1.0"])
    written(tmp_path / "runs" / "b", "Hopper-v4", "trpo", 1, ["1.0"])
    (tmp_path / "runs" / "a" / file).write_text(text)
    damaged, whole = find([tmp_path / "runs"])
    assert (damaged.status, whole.status) == ("broken", "finished")
    assert damaged.note.startswith(note)


def test_a_row_that_is_being_written_waits_for_its_end(tmp_path: Path) -> None:
    written(tmp_path / "run", "Hopper-v4", "trpo", 0, ["1.0", "3.0"])
    with (tmp_path / "run" / "metrics.csv").open("a") as file:
        file.write("300,5")
    (record,) = find([tmp_path])
    assert record.status == "finished"
    np.testing.assert_array_equal(record.rows[RETURN], [1, 3])


def test_links_are_not_followed(trpo_tables: Command, tmp_path: Path) -> None:
    written(tmp_path / "secret", "Hopper-v4", "trpo", 0, ["1.0"])
    written(tmp_path / "runs" / "own", "Hopper-v4", "trpo", 1, ["2.0"])
    (tmp_path / "runs" / "elsewhere").symlink_to(tmp_path / "secret")
    (tmp_path / "runs" / "linked").mkdir()
    (tmp_path / "runs" / "linked" / "metrics.csv").symlink_to(tmp_path / "secret" / "metrics.csv")
    done = trpo_tables("runs", "--out", "out")
    assert "runs/linked is broken: metrics.csv is a link; for safety, a run" in done.out
    assert [row["directory"] for row in rows_of(tmp_path / "out" / "runs.csv")] == ["runs/linked", "runs/own"]


def test_groups_by_any_key(trpo_tables: Command, tmp_path: Path) -> None:
    for delta, final in ((0.1, "4.0"), (0.02, "2.0"), (1e-05, "0.0")):
        for seed in range(2):
            written(tmp_path / "runs" / f"{delta}{seed}", "Hopper-v4", "trpo", seed, ["1.0", final], delta)
    done = trpo_tables("runs", "--out", "out", "--by", "algo")
    assert "| Hopper-v4 | trpo | 6 | 200 | 2 |" in results(tmp_path)
    assert "Hopper-v4, trpo: averages over runs that also differ in algo.delta" in done.out
    trpo_tables("runs", "--out", "out", "--by", "algo.delta")
    labels = [row["algorithm"] for row in rows_of(tmp_path / "out" / "results.csv")]
    assert labels == ["algo.delta=1e-05", "algo.delta=0.02", "algo.delta=0.1"]
    done = trpo_tables("runs", "--out", "out", "--by", "algo.detla")
    assert done.status == 1
    assert done.err == "error: --by: no run has a key 'algo.detla'; did you mean 'algo.delta'?"


def test_the_interquartile_mean_of_a_group(trpo_tables: Command, tmp_path: Path) -> None:
    for seed, final in enumerate(("0.0", "4.0", "6.0", "1000.0")):
        written(tmp_path / "runs" / str(seed), "Hopper-v4", "trpo", seed, ["1.0", final])
    assert trpo_tables("runs", "--out", "out", "--statistic", "iqm", "--smooth", "2").status == 0
    assert "| Hopper-v4 | trpo | 4 | 200 | 5 |" in results(tmp_path)
    caption = (
        "the interquartile mean over the runs, smoothed: each point is the mean of 2 rows, and at each point its 95 %"
    )
    assert caption in results(tmp_path)


def test_steps_to_a_threshold(trpo_tables: Command, tmp_path: Path) -> None:
    for seed, returns in enumerate((["0.0", "9.5", "10.0"], ["0.0", "1.0", "10.0"], ["0.0", "1.0", "10.0"])):
        written(tmp_path / "runs" / str(seed), "Hopper-v4", "trpo", seed, returns)
    assert trpo_tables("runs", "--out", "out").status == 0
    (row,) = rows_of(tmp_path / "out" / "efficiency.csv")
    assert (row["threshold"], row["runs that reach it"], row["median steps"]) == ("9.0", "3 of 3", "300.0")
    assert trpo_tables("runs", "--out", "out", "--threshold", "Hopper-v4=11", "5").status == 0
    (row,) = rows_of(tmp_path / "out" / "efficiency.csv")
    assert (row["threshold"], row["runs that reach it"], row["median steps"]) == ("11.0", "0 of 3", "")
    done = trpo_tables("runs", "--out", "out", "--threshold", "Hoper-v4=11")
    assert done.err == "error: --threshold: no run has the task 'Hoper-v4'; did you mean 'Hopper-v4'?"
    assert "got 'much'; it takes RETURN" in trpo_tables("runs", "--out", "out", "--threshold", "much").err


def test_published_numbers_stand_beside_ours(trpo_tables: Command, tmp_path: Path) -> None:
    written(tmp_path / "runs" / "a", "Hopper-v4", "trpo", 0, ["1.0", "3000.0"], last=1_003_520)
    written(tmp_path / "runs" / "b", "CartPole-v1", "trpo", 0, ["1.0", "3.0"])
    done = trpo_tables("runs", "--out", "out", "--compare")
    assert done.status == 0, done.err
    table = rows_of(tmp_path / "out" / "comparison.csv")
    assert table[0]["source"] == "these runs"
    (contrib,) = [row for row in table if row["source"] == "sb3-contrib"]
    assert (contrib["return"], contrib["± over seeds"], contrib["seeds"], contrib["steps"]) == (
        "3372",
        "215",
        "3",
        "1000000",
    )
    best = "best published: trpo of sb3-contrib, 3 seeds, 1,000,000 steps, a return of unstated kind"
    assert f"| 3,372 | the {best} |" in results(tmp_path)
    assert f"Hopper-v4 1 to 3,372 ({best})" in results(tmp_path)
    assert trpo_tables("runs", "--out", "out").status == 0
    assert not (tmp_path / "out" / "comparison.csv").exists(), "left over from the report before"
    assert "leave out --metric" in trpo_tables("runs", "--out", "out", "--compare", "--metric", "env_steps").err


def test_runs_of_an_altered_task_are_not_held_against_published_numbers(trpo_tables: Command, tmp_path: Path) -> None:
    made = {"whole": "kwargs: {}", "blind": "kwargs: {}, hide: ['5:']", "light": "kwargs: {xml_file: light.xml}"}
    for name, env in made.items():
        written(tmp_path / name, "Hopper-v4", "trpo", 0, ["1.0", "3000.0"], last=1_003_520)
        config = (tmp_path / name / "config.yaml").read_text()
        (tmp_path / name / "config.yaml").write_text(config.replace("Hopper-v4", f"Hopper-v4, {env}"))
    assert trpo_tables(*made, "--out", "out", "--compare").status == 0
    (beside,) = [row for row in rows_of(tmp_path / "out" / "comparison.csv") if row["source"] == "these runs"]
    (against,) = rows_of(tmp_path / "out" / "published.csv")
    assert beside["algorithm"] == against["algorithm"] == "trpo"
    light = "trpo env.kwargs.xml_file=light.xml (env.kwargs.xml_file)"
    assert f"left out: Hopper-v4 trpo env.hide=[5:] (env.hide); Hopper-v4 {light}." in results(tmp_path)
    assert trpo_tables("blind", "--out", "alone", "--compare").status == 0
    assert "best published" not in (tmp_path / "alone" / "results.md").read_text()


def test_a_group_is_named_after_the_run_it_began_from(trpo_tables: Command, tmp_path: Path) -> None:
    other = f"init_from: {tmp_path}/b\ninit: {{critic: false}}\n"
    for name, more in {"fresh": "", "tuned": "init_from: runs/a\n", "other": other}.items():
        written(tmp_path / "runs" / name, "Hopper-v4", "trpo", 0, ["1.0", "2.0"])
        with (tmp_path / "runs" / name / "config.yaml").open("a") as file:
            file.write(more)
    assert trpo_tables("runs", "--out", "out").status == 0
    labels = {"trpo", "trpo init_from=runs/a", "trpo init.critic=false init_from=b"}
    assert {row["algorithm"] for row in rows_of(tmp_path / "out" / "results.csv")} == labels
    assert trpo_tables("runs", "--out", "out", "--by", "init_from").status == 0
    labels = {"no init_from", "init_from=runs/a", "init_from=b"}
    assert {row["algorithm"] for row in rows_of(tmp_path / "out" / "results.csv")} == labels


def test_published_numbers_are_found_whatever_the_version_of_a_task() -> None:
    assert find_published("Hopper-v5") == find_published("Hopper-v4")
    assert {number.algo for number in find_published("Ant-v4")} == {"trpo", "npg", "ppo"}
    assert find_published("ALE/Breakout-v5")[0].value == 10.8
    assert not find_published("Nowhere-v4")


def test_diagnostics_of_a_trust_region(trpo_tables: Command, tmp_path: Path) -> None:
    written(tmp_path / "runs" / "a", "Hopper-v4", "trpo", 0, ["1.0", "3.0"])
    columns = "env_steps,rollout/episode_return_mean,policy/kl,trust_region/backtracks,trust_region/accepted"
    (tmp_path / "runs" / "a" / "metrics.csv").write_text(f"{columns}\n100,1,0.005,0,1\n200,3,0.015,3,0\n")
    written(tmp_path / "runs" / "b", "Hopper-v4", "ppo", 0, ["1.0", "3.0"])
    first, second = find([tmp_path / "runs"])
    np.testing.assert_allclose(compute_diagnostics(first)["KL / δ"], [0.5, 1.5])
    assert not compute_diagnostics(second)
    assert trpo_tables("runs", "--out", "out").status == 0
    (row,) = rows_of(tmp_path / "out" / "diagnostics.csv")
    assert (row["median KL / δ"], row["share of KL > δ"], row["mean backtracks"]) == ("1.0", "0.5", "1.5")
    assert (row["accepted share"], row["median CG residual"]) == ("0.5", "")
    assert (tmp_path / "out" / "diagnostics.svg").exists()


def test_what_is_no_run_is_said_to_be_none(trpo_tables: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty holds no run" in trpo_tables("empty", "--out", "out").err
    assert "error: nowhere is no folder; a run directory fits" in trpo_tables("nowhere", "--out", "out").err
    (tmp_path / "empty" / "metrics.csv").write_text("nonsense\n")
    done = trpo_tables("empty", "--out", "out")
    assert done.status == 1
    assert "empty: broken; it is not a run directory, since it has no config.yaml" in done.err
    assert not (tmp_path / "out").exists()


def test_what_is_no_report_is_not_overwritten(trpo_tables: Command, tmp_path: Path) -> None:
    written(tmp_path / "runs" / "a", "Hopper-v4", "trpo", 0, ["1.0"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "results.csv").write_text("precious")
    done = trpo_tables("runs", "--out", "mine")
    assert done.err == "error: --out: mine has a results.csv that does not belong to a report; name another folder"
    assert (tmp_path / "mine" / "results.csv").read_text() == "precious"
    assert (
        trpo_tables("runs", "--out", "mine/results.csv").err == "error: --out: mine/results.csv is a file, not a folder"
    )
    for _ in range(2):
        assert trpo_tables("runs", "--out", "out").status == 0


def hostile(directory: Path) -> None:
    """Runs whose names and notes would be markup, and a long label."""
    for seed in range(2):
        written(directory / "<script>alert(1)<|b>" / str(seed), "'<b>$Task$'", "'<i>&algo'", seed, ["1.0", "3.0"])
    written(directory / ("long" * 30), "Hopper-v4", "trpo", 0, ["1.0", "3.0"], delta=0.5)
    written(directory / "other", "Hopper-v4", "trpo", 0, ["1.0", "3.0"])


def test_the_page_needs_nothing_else_and_escapes_what_a_stranger_named(trpo_report: Command, tmp_path: Path) -> None:
    hostile(tmp_path / "runs")
    done = trpo_report("runs", "--out", "out", "--title", "<b>bold")
    assert done.status == 0, done.err
    page = (tmp_path / "out" / "report.html").read_text()
    assert not any(tag in page for tag in ("<script", "<b>", "<i>", 'src="http', "@import"))
    assert "&lt;script&gt;alert(1)" in page
    assert page.count("<img ") == page.count('src="data:image/svg+xml;base64,') == page.count('alt="')
    text = results(tmp_path)
    assert "<script" not in text
    assert "&lt;script>alert(1)&lt;\\|b>" in text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_the_page_fits_a_phone(trpo_report: Command, tmp_path: Path) -> None:
    """Opened in a frame of 390 pixels, which a window of Chromium's may not be as narrow as."""
    hostile(tmp_path / "runs")
    assert trpo_report("runs", "--out", "out", "--compare").status == 0
    page = (tmp_path / "out" / "report.html").read_text()
    tell = "innerWidth, document.documentElement.scrollWidth, [...document.images].filter(i => i.naturalWidth).length"
    script = f"<script>onload = () => parent.postMessage([{tell}].join(), '*')</script>"
    (tmp_path / "told.html").write_text(page.replace("</body>", script))
    frame = "<script>onmessage = event => document.title = 'told ' + event.data</script>"
    (tmp_path / "frame.html").write_text(f"{frame}<iframe src=told.html style='width:390px;border:0'></iframe>")
    options = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--virtual-time-budget=5000",
        f"--user-data-dir={tmp_path}/profile",
    )
    command = [str(CHROMIUM), *options, "--dump-dom", f"file://{tmp_path}/frame.html"]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert f"<title>told 390,390,{page.count('<img ')}</title>" in dom


def test_hundreds_of_runs_are_read_in_seconds(tmp_path: Path) -> None:
    for seed in range(50):
        written(tmp_path / str(seed), "Hopper-v4", "trpo", seed, [str(float(i)) for i in range(500)])
    begun = time.process_time()
    assert len(find([tmp_path])) == 50
    assert time.process_time() - begun < 5


def test_numbers_sort_as_numbers() -> None:
    assert sorted(["x=10", "x=9", "x=1e-05", "x=0.3"], key=natural_key) == ["x=1e-05", "x=0.3", "x=9", "x=10"]


def record(name: str, steps: list[float], returns: list[float]) -> RunRecord:
    return RunRecord(Path(name), "finished", rows={"env_steps": np.array(steps), RETURN: np.array(returns)})


def test_curves_stop_where_the_shortest_run_stops() -> None:
    short, long = record("short", [0, 10], [0, 1]), record("long", [0, 10, 20], [2, 2, 8])
    at, returns = curve([short, long], RETURN)
    assert at[0] == 0
    assert at[-1] == 10
    np.testing.assert_allclose(returns[0], at / 10)
    np.testing.assert_allclose(returns[1], 2)


def test_a_run_of_one_row_is_a_marker(trpo_report: Command, tmp_path: Path) -> None:
    written(tmp_path / "runs" / "a", "Hopper-v4", "trpo", 0, ["1.0"])
    at, returns = curve([record("a", [100], [1])], RETURN)
    assert (at.tolist(), returns.tolist()) == ([100], [[1]])
    assert trpo_report("runs", "--out", "out").status == 0
    assert '<g id="LineCollection_1">' in (tmp_path / "out" / "learning_curves.svg").read_text()


def told(folder: Path, **options: Any) -> tuple[str, str]:
    """The notices and the first table of a report whose figures nobody draws."""
    made = make_content(find([folder]), Options(**options))
    table = made.sections[0].table
    assert table is not None
    return "\n".join(made.notices), table.to_markdown()


def test_of_runs_that_differ_in_length_alone_the_longer_counts(tmp_path: Path) -> None:
    for seed in range(2):
        written(tmp_path / f"short{seed}", "Hopper-v4", "trpo", seed, ["1.0", "3.0"])
        written(tmp_path / f"long{seed}", "Hopper-v4", "trpo", seed, ["1.0", "3.0", "9.0"])
        config = tmp_path / f"long{seed}" / "config.yaml"
        longer = config.read_text().replace("total_steps: 300", "total_steps: 400")
        config.write_text(longer.replace("delta: 0.01", "delta: 0.01, max_rejected: 9"))
    assert "duplicate" not in told(tmp_path)[0], "without --by they are in groups of their own"
    notices, table = told(tmp_path, by=["algo"])
    assert "| Hopper-v4 | trpo | 2 | 300 | 9 |" in table
    same = f"finished; the same run, seed and all, as {tmp_path}/long0, which got further"
    assert f"2 runs are duplicates, e.g. {tmp_path}/short0: {same}" in notices
    for config in tmp_path.glob("*/config.yaml"):
        config.write_text(config.read_text().replace("delta: 0.01", "delta: 0.01, step: {schedule: {shrink: linear}}"))
    notices, table = told(tmp_path, by=["algo"])
    assert "| Hopper-v4 | trpo | 4 | 200 | 3 |" in table
    assert "total_steps; seed 0 occurs 2 times, seed 1 occurs 2 times, and the interval treats all 4" in notices


def test_evaluations_stand_in_where_no_episode_ended(trpo_tables: Command, tmp_path: Path) -> None:
    for seed in range(2):
        written(tmp_path / "runs" / str(seed), "Swimmer-v4", "trpo", seed, [",10.0", ",30.0"])
        table = tmp_path / "runs" / str(seed) / "metrics.csv"
        table.write_text(table.read_text().replace("return_mean\n", "return_mean,eval/episode_return_mean\n", 1))
    done = trpo_tables("runs", "--out", "out", "--compare")
    assert done.status == 0, done.err
    assert "no run has ended an episode while it sampled: the returns shown are evaluations" in done.out
    assert "| Swimmer-v4 | trpo | 2 | 200 | 30 |" in results(tmp_path)
    (ours,) = [row for row in rows_of(tmp_path / "out" / "comparison.csv") if row["source"] == "these runs"]
    assert (ours["return"], ours["measured"]) == ("30.0", "evaluation")
    written(tmp_path / "runs" / "hopper", "Hopper-v4", "trpo", 0, ["1.0"])
    missing = (
        "2 runs of Swimmer-v4 (2 trpo) have ended no episode: no training return; see --metric eval/episode_return"
    )
    assert missing in told(tmp_path / "runs")[0]


def test_runs_that_failed_alike_share_a_line(trpo_tables: Command, tmp_path: Path) -> None:
    written(tmp_path / "runs" / "whole", "Hopper-v4", "trpo", 0, ["1.0"])
    for number in range(13):
        (tmp_path / "runs" / str(number)).mkdir()
        log = f"2026-01-02 03:04:05,678 ERROR the run ended early: fault {max(3, number)}\n"
        (tmp_path / "runs" / str(number) / "train.log").write_text(log)
    done = trpo_tables("runs", "--out", "out")
    assert done.out.startswith("4 runs failed: fault 3, e.g. runs/0\nruns/10 failed: fault 10\n")
    assert "2 more runs failed or are broken: see the table of runs\n" in done.out
    page = (tmp_path / "out" / "report.html").read_text()
    top, _, end = page.partition("<main>")
    assert ("9 notices at the end" in top, "fault 3" in top, "4 runs failed: fault 3" in end) == (True, False, True)
    assert "Made from runs on 20" in top


def test_a_report_of_one_folder_goes_into_it(trpo_tables: Command, tmp_path: Path) -> None:
    written(tmp_path / "runs" / "a", "Hopper-v4", "trpo", 0, ["1.0"])
    for _ in range(2):
        assert trpo_tables("runs").status == 0
    assert (tmp_path / "runs" / "report" / "report.html").exists()
    done = trpo_tables("runs", "runs/a")
    assert done.err == "error: --out: is needed with 2 folders: --out DIR says where the report goes"


def test_algorithms_with_other_tasks_are_not_ranked_in_silence(trpo_tables: Command, tmp_path: Path) -> None:
    for task, algo in (("Hopper-v4", "trpo"), ("Hopper-v4", "ppo"), ("Walker2d-v4", "trpo")):
        written(tmp_path / "runs" / f"{task}{algo}", task, algo, 0, ["1.0", "3.0"])
    assert trpo_tables("runs", "--out", "out").status == 0
    assert "only those that were compare: ppo lacks Walker2d-v4." in results(tmp_path)


def test_thousands_are_told_apart(trpo_tables: Command, tmp_path: Path) -> None:
    written(tmp_path / "runs" / "a", "Hopper-v4", "trpo", 0, ["1.0", "29696.0"])
    written(tmp_path / "runs" / "b", "Hopper-v4", "trpo", 1, ["1.0", "99999.9"])
    done = trpo_tables("runs", "--out", "out")
    assert re.search(r"\n *Hopper-v4 +trpo +2 +200 +64,800 +29,700 to 100,000 +64,800\n", done.out)


@pytest.mark.parametrize(("kl", "cut"), [("0.5", True), ("0.03", False)])
def test_an_outlier_does_not_squash_the_others(trpo_report: Command, tmp_path: Path, kl: str, cut: bool) -> None:
    for algo, own in (("trpo", "0.005"), ("npg", kl)):
        written(tmp_path / "runs" / algo, "Hopper-v4", algo, 0, ["1.0"])
        columns = "env_steps,rollout/episode_return_mean,policy/kl,trust_region/backtracks"
        (tmp_path / "runs" / algo / "metrics.csv").write_text(f"{columns}\n100,1,{own},0\n200,3,{own},0\n")
    assert trpo_report("runs", "--out", "out").status == 0
    assert ("<!-- cut at 4: npg up to 50 -->" in (tmp_path / "out" / "diagnostics.svg").read_text()) is cut


def test_an_archive_has_few_rows_and_the_same_report(trpo_train: Command, trpo_tables: Command, tmp_path: Path) -> None:
    small = ("env=CartPole-v1", "sampler.num_envs=2", "sampler.steps_per_iteration=32", "eval.every=1000")
    task = (*small, "eval.episodes=2", "algo=trpo,npg", "seed=0,1", "total_steps=4000", "hydra.sweep.dir=runs")
    assert trpo_train("-m", *task, "critic=linear", "checkpoint.every=1000").status == 0
    (tmp_path / "runs" / "unfinished").mkdir()
    shutil.copy(next((tmp_path / "runs").glob("*/config.yaml")), tmp_path / "runs" / "unfinished")
    every = ("--against", "env_steps", "iterations", "seconds")
    assert trpo_tables("runs", *every).status == 0
    done = trpo_tables("runs", "--archive", "archive", *every)
    assert done.status == 0, done.err
    assert "4 runs copied to archive, which has 4 now" in done.out
    runs = sorted(path.parent for path in (tmp_path / "archive").rglob("metrics.csv"))
    names = [f"CartPole-v1/{algo}/seed{seed}" for algo in ("npg", "trpo") for seed in (0, 1)]
    assert [str(run.relative_to(tmp_path / "archive")) for run in runs] == names
    with (tmp_path / "archive" / "results.csv").open() as file:
        listed = list(csv.DictReader(file))
    whole = {(r.algo, r.seed): r for r in find([tmp_path / "runs"]) if r.status == "finished"}
    for row, small_run in zip(listed, find(runs), strict=True):
        run = whole[small_run.algo, small_run.seed]
        assert len(small_run.rows["env_steps"]) <= 100 < len(run.rows["env_steps"]) == small_run.rows["iterations"][-1]
        assert (row["algo"], row["seed"], row["env_steps"]) == (run.algo, str(run.seed), "4000")
        assert float(row["best_training_return"]) == run.best(RETURN) == small_run.best(RETURN)
        assert float(row["final_training_return"]) == run.last(RETURN)
        assert float(row["final_evaluation_return"]) == run.last("eval/episode_return_mean")
        for against in ("env_steps", "seconds"):
            places, values = series(small_run, "eval/episode_return_mean", against)
            assert_allclose(places, series(run, "eval/episode_return_mean", against)[0], rtol=1e-4)
            assert list(values) == list(series(run, "eval/episode_return_mean")[1])
    reports = [(tmp_path / folder / "report" / "results.md").read_text() for folder in ("runs", "archive")]
    before, after = (text[text.index("## Results") : text.index("## Learning curves")] for text in reports)
    assert before == after


def test_an_archive_grows_and_touches_nothing_it_has(trpo_tables: Command, tmp_path: Path) -> None:
    written(tmp_path / "first", "Hopper-v4", "trpo", 10, ["1.0"])
    written(tmp_path / "second", "Hopper-v4", "trpo", 9, ["2.0"])
    written(tmp_path / "third", "Hopper-v4", "trpo", 10, ["3.0"], delta=0.5)
    assert trpo_tables("first", "--archive", "archive").status == 0
    kept_row = tmp_path / "archive" / "Hopper-v4" / "trpo" / "seed10" / "metrics.csv"
    kept_row.write_text(kept_row.read_text().replace("1.0", "1.5"))
    done = trpo_tables("first", "second", "third", "archive", "--archive", "archive")
    assert "2 runs copied to archive, which has 3 now" in done.out, done.err
    assert "1.5" in kept_row.read_text()
    places = sorted(
        str(path.parent.relative_to(tmp_path / "archive")) for path in kept_row.parents[3].rglob("summary.json")
    )
    labels = ("trpo/seed10", "trpo/seed9", "trpo_algo.delta=0.5/seed10")
    assert places == [f"Hopper-v4/{label}" for label in labels]
    lines = (tmp_path / "archive" / "results.csv").read_text().splitlines()
    assert [line.split(",")[:3] for line in lines[1:]] == [["Hopper-v4", "trpo", seed] for seed in ("9", "10", "10")]
    assert "0 runs copied to archive, which has 3 now" in trpo_tables("second", "--archive", "archive").out


def test_an_archive_of_an_archive_is_the_same(trpo_tables: Command, tmp_path: Path) -> None:
    written(tmp_path / "run", "Hopper-v4", "trpo", 0, [str(float(i)) for i in range(300)])
    assert trpo_tables("run", "--archive", "first").status == 0
    assert trpo_tables("first", "--archive", "second").status == 0
    first, second = ((tmp_path / name / "Hopper-v4/trpo/seed0/metrics.csv").read_text() for name in ("first", "second"))
    assert first == second


def test_a_copy_that_was_cut_off_is_made_again(trpo_tables: Command, tmp_path: Path) -> None:
    written(tmp_path / "run", "Hopper-v4", "trpo", 0, ["1.0"])
    assert trpo_tables("run", "--archive", "archive").status == 0
    copy = tmp_path / "archive" / "Hopper-v4" / "trpo" / "seed0"
    (copy / "summary.json").unlink()
    (copy / "metrics.csv").write_text("env")
    done = trpo_tables("run", "--archive", "archive")
    assert "1 run copied to archive, which has 1 now" in done.out, done.err
    assert "100,1.0,1" in (copy / "metrics.csv").read_text()


def test_results_of_something_else_are_not_written_over(trpo_tables: Command, tmp_path: Path) -> None:
    written(tmp_path / "run", "Hopper-v4", "trpo", 0, ["1.0"])
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "results.csv").write_text("mine\n")
    done = trpo_tables("run", "--archive", "archive")
    assert done.status == 1
    assert "archive/results.csv does not belong to an archive, and is not overwritten" in done.err


def test_an_archive_keeps_the_best_row_among_many_evaluations() -> None:
    steps, returns = np.arange(1.0, 1001.0), np.zeros(1000)
    returns[37] = 1.0
    rows = {"env_steps": steps, RETURN: returns, "eval/episode_return_mean": steps}
    chosen = select_rows(RunRecord(Path("run"), "finished", rows=rows))
    assert {0, 37, 999} <= set(chosen)
    assert 95 <= len(chosen) <= 100
    assert max(np.diff(chosen)) < 15


def test_two_runs_never_share_a_place_in_an_archive(trpo_tables: Command, tmp_path: Path) -> None:
    for place, task in (("a", "My/Task"), ("b", "My.Task")):
        written(tmp_path / "runs" / place, task, "trpo", 0, ["1.0"])
    done = trpo_tables("runs", "--archive", "archive")
    assert "would both be archive/My.Task/trpo/seed0" in done.err
    assert not (tmp_path / "archive").exists()


def test_what_is_not_finished_is_not_archived(trpo_tables: Command, tmp_path: Path) -> None:
    written(tmp_path / "run", "Hopper-v4", "trpo", 0, ["1.0"])
    (tmp_path / "run" / "summary.json").unlink()
    done = trpo_tables("run", "--archive", "archive")
    assert "error: --archive: no run is finished" in done.err
    assert not (tmp_path / "archive").exists()
