"""Every table of results on a page is what the archived runs come to, and every claim about one is borne out by it."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from test_learning import METHODS

from trpo_cli.report.content import make_content
from trpo_cli.report.options import Options
from trpo_cli.report.published import find_published
from trpo_cli.report.runs import find
from trpo_cli.statistics import FEWEST, bounds, difference, estimate, estimate_from_summary, holm

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "runs" / "reference"


def page(path: Path) -> str:
    """Its text, with plain hyphens for dashes and signs of minus."""
    return path.read_text(encoding="utf-8").translate({0x2013: "-", 0x2212: "-"})


RESULTS = page(REFERENCE / "README.md")
TABLE = re.findall(r"^\| (\S+-v\d) \| `(\w+)` \| (.+) \|$", RESULTS, re.MULTILINE)
"""Task, algorithm and the other cells of each row of the large table."""


def test_the_results_are_those_of_the_published_runs() -> None:
    """Every number of the table, from `results.csv`, which has a row for each run, and from what others published."""
    with (REFERENCE / "results.csv").open() as file:
        runs = list(csv.DictReader(file))
    assert {(task, algo) for task, algo, _ in TABLE} == {(run["task"], run["algo"]) for run in runs}
    tests: list[float | None] = []
    for task, algo, cells in TABLE:
        rows = [run for run in runs if (run["task"], run["algo"]) == (task, algo)]
        columns = ("final_evaluation_return", "final_training_return", "best_training_return")
        evaluation, training, best = (np.array([float(run[name]) for run in rows]) for name in columns)
        low, high = bounds([evaluation])
        span = f"{rounded(low)} to {rounded(high)}" + ("" if len(rows) >= FEWEST else " (min to max)")
        ours = [rounded(evaluation.mean()), span, rounded(training.mean()), rounded(best.mean())]
        number, test = held_against(task, algo, evaluation)
        assert cells.split(" | ")[:-1] == [str(len(rows)), *ours, number], task
        tests.append(test)
    told = [
        f"{tiny(p)} ({tiny(c)})" if p is not None and c is not None else "-"
        for p, c in zip(tests, holm(tests), strict=True)
    ]
    assert told == [cells.split(" | ")[-1] for _, _, cells in TABLE]
    assert sum(p is not None for p in tests) == 24
    assert sum(p is not None and p < 0.05 for p in tests) == 7 + 6
    assert sum(p is not None and p < 0.05 for p in holm(tests)) == 7
    text = " ".join(RESULTS.split())
    assert "corrected for the 24 tests" in text
    assert "After the correction, seven rows are significant, and ours is higher in all of them" in text


def test_the_front_page_shows_rows_of_the_large_table() -> None:
    """Those of TRPO, and a sentence about which of them show a difference."""
    front = page(ROOT / "README.md")
    chosen = [
        (task, " | ".join(row[place] for place in (1, 2, 3, 5, 6)))
        for task, algo, cells in TABLE
        for row in [cells.split(" | ")]
        if algo == "trpo"
    ]
    assert re.findall(r"^\| (\S+-v\d) \| (.+) \|$", front, re.MULTILINE) == chosen
    decided = [task for task, cells in chosen if re.search(r"\((< 0\.001|0\.0[0-4]\d)\)$", cells)]
    assert f"so this table shows a difference on {' and '.join(decided)} and" in " ".join(front.split())


def test_the_search_is_compared_with_the_results() -> None:
    rows = re.findall(r"^\| (\S+) \| `(\w+)` \| [\d, ]+ \| (\d+) \|$", page(REFERENCE / "tuning.md"), re.MULTILINE)
    assert len(rows) == 4
    assert set(rows) <= {(task, algo, cells.split(" | ")[1]) for task, algo, cells in TABLE}


def test_the_returns_on_cartpole_are_those_that_the_slow_tests_demand() -> None:
    rows = {float(wanted): text for wanted, text in re.findall(r"^\| (\d{3}) \| (.+) \|$", RESULTS, re.MULTILINE)}
    assert rows.keys() == set(METHODS.values())
    for (algo, *_), wanted in METHODS.items():
        assert f"`{algo.removeprefix('algo=')}`" in rows[wanted]


def held_against(task: str, algo: str, ours: np.ndarray) -> tuple[str, float | None]:
    """The best published number that compares, as the table has it, and the p-value of Welch's test."""
    best = max((n for n in find_published(task) if n.matches(algo, 1_000_000)), key=lambda n: n.value, default=None)
    if best is None:
        return "-", None
    test = difference(estimate([ours]), estimate_from_summary(best.value, best.spread, best.seeds or 1))
    assert test.p_value() is None or test.value > 0, "the text says that no mean is below the published number"
    deviation = "" if best.spread is None else f" ± {best.spread}"
    return f"{best.value}{deviation} {best.source}", test.p_value()


def tiny(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def test_the_intervals_of_the_search_are_those_of_its_five_seeds() -> None:
    rows = re.findall(r"\| ((?:-?\d+, ){4}-?\d+) \| (\d+) \((-?\d+) to (-?\d+)\) \|", RESULTS)
    assert len(rows) == 3
    for texts in rows:
        seeds, mean, low, high = (np.array(text.split(", "), float) for text in texts)
        np.testing.assert_allclose((mean[0], low[0], high[0]), (seeds.mean(), *bounds([seeds])), atol=0.5)


def rounded(number: float) -> str:
    """As the table has it."""
    return f"{number:.1f}" if abs(number) < 100 else f"{number:.0f}"


def test_the_published_report_is_that_of_the_published_runs() -> None:
    """Every table of `runs/reference/report`, made anew of the archive by the options of its command."""
    made = make_content(find([REFERENCE]), Options(compare=True, versus=["trpo"]))
    for table in (section.table for section in made.sections if section.table and section.table.name != "runs"):
        with (REFERENCE / "report" / f"{table.name}.csv").open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        assert header == list(table.columns)
        assert len(rows) == len(table.rows)
        for cells, row in zip(rows, table.rows, strict=True):
            for cell, value in zip(cells, row, strict=True):
                same = cell == ("" if value is None else str(value))
                assert same or float(cell) == pytest.approx(value), (table.name, row)


@pytest.mark.parametrize(
    ("place", "experiment", "decided"),
    [(0, "cartpole", {"rwr"}), (1, "swimmer_small", {"trpo_max_kl", "trpo_vine"})],
)
def test_the_paper_tables_are_those_of_the_published_runs(place: int, experiment: str, decided: set[str]) -> None:
    """Every number of the table, and which comparisons with TRPO the text calls decided."""
    runs = find([REFERENCE / f"paper_{experiment}"])
    made = {s.table.name: s.table for s in make_content(runs, Options(versus=["trpo"])).sections if s.table}
    results = [dict(zip(made["results"].columns, row, strict=True)) for row in made["results"].rows]
    expected = {}
    for row in results:
        mean, (low, high) = float(row["final training return"]), str(row["95 % interval"]).split(" to ")
        expected[row["algorithm"]] = f"{mean:.0f} ({float(low):.0f} to {float(high):.0f})"
    told = re.findall(
        r"^\| `(\w+)`(?:, the best multiplier)? \| ([^|]+ to [^|]+) \| ([^|]+) \|$", RESULTS, re.MULTILINE
    )
    assert {algo: cells[place].strip() for algo, *cells in told} == expected
    versus = [dict(zip(made["versus"].columns, row, strict=True)) for row in made["versus"].rows]
    assert len(versus) == 7
    assert {row["B"] for row in versus if float(row["p (Holm)"]) < 0.05} == decided


def test_the_exact_returns_are_those_of_the_published_runs() -> None:
    runs = {run.algo: run for run in find([REFERENCE / "exact"])}
    table = re.findall(r"^\| (`\w+`(?:, `\w+`)?) \| (0\.0\d{5} \|.+)\|$", RESULTS, re.MULTILINE)
    assert [names for names, _ in table] == ["`monotone_pi`", "`cpi`", "`vpg`", "`trpo`, `npg`"]
    for names, cells in table:
        for algo in re.findall(r"\w+", names):
            rows = runs[algo].rows
            for power, cell in enumerate(cells.split("|")[:5]):
                there = rows["exact/return"][rows["iterations"] == 10**power]
                assert cell.strip() == (f"{there[0]:.6f}" if len(there) else ""), (algo, power)


@pytest.mark.parametrize(
    ("archive", "task", "algo", "line"),
    [
        ("vine", "CartPole-v1", "trpo", "CartPole-v1, 2M"),
        ("vine", "FrozenLake-v1", "trpo", "FrozenLake-v1, 3M"),
        ("vine", "Swimmer-v4", "trpo", "Swimmer-v4, 4M"),
        ("vine", "Hopper-v4", "trpo", "Hopper-v4, 8M"),
        ("closed_vine", "Hopper-v4", "trpo", "Hopper-v4, 1M, `closed_vine`"),
        ("minatar_vine", "MinAtar/Breakout-v1", "trpo_vine", "`trpo_vine`"),
        ("minatar_vine", "MinAtar/Breakout-v1", "trpo", "`trpo`"),
    ],
)
def test_the_returns_of_vine_are_those_of_the_published_runs(archive: str, task: str, algo: str, line: str) -> None:
    with (REFERENCE / archive / "results.csv").open() as file:
        runs = [run for run in csv.DictReader(file) if (run["task"], run["algo"]) == (task, algo)]
    digits = {"FrozenLake-v1": 2, "MinAtar/Breakout-v1": 1}.get(task, 0)
    section = RESULTS.partition("\n## Vine\n")[2]
    training, evaluation = section.partition(f"| {line} | ")[2].partition(" |\n")[0].split(" | ")
    assert training == ", ".join(f"{float(run['final_training_return']):.{digits}f}" for run in runs)
    if task != "FrozenLake-v1":  # evaluated again, over more episodes
        assert evaluation == ", ".join(f"{float(run['final_evaluation_return']):.{digits}f}" for run in runs)
