"""Every command of the README is run, shortened, in the order it stands there; every file it links to is there."""

from __future__ import annotations

import csv
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Command

from trpo_cli.report.content import Options, content
from trpo_cli.report.published import published
from trpo_cli.report.runs import find
from trpo_cli.statistics import FEWEST, bounds, difference, estimate, holm, known

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DASHED = README.translate({0x2013: "-", 0x2212: "-"})  # for dashes and signs of minus
COMMANDS = [
    line.partition(" #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]
FILES = re.findall(r"```(?:yaml|python|toml)\n# (\S+)\n(.*?)```", README, re.DOTALL)
SITE = "site-packages"  # where packages are installed that the README writes
SHORT = ("total_steps=64", "eval.episodes=1", "eval.every=64")
SINGLE_PATH = ("sampler.num_envs=2", "sampler.steps_per_iteration=64")
VINE = ("sampler.num_states=4", "sampler.branch_length=4", "sampler.steps_per_iteration=256")
SEARCH = ("hydra.sweeper.n_trials=2", "hydra.sweeper.seeds=[0]")
FEWER = ("hydra.sweeper.params.seed='0'", "total_steps=2000", "eval.every=0")


def test_the_readme_opens_with_the_two_commands() -> None:
    assert COMMANDS[:2] == ["make train", "make test"]


def test_every_file_has_a_name() -> None:
    assert len(FILES) == len(set(FILES)) == len(re.findall(r"```(?:yaml|python|toml)\n", README))


def test_every_command(
    trpo_train: Command,
    trpo_eval: Command,
    trpo_report: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, text in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for path in (tmp_path, tmp_path / SITE):
        monkeypatch.syspath_prepend(path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # --install-completion writes there
    (tmp_path / "home").mkdir()
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    for command in COMMANDS:
        program, *arguments = shlex.split(command.removeprefix("PYTHONPATH=. "))
        if program == "trpo-train":
            done = trpo_train(*shortened(arguments))
        elif program == "trpo-eval":
            done = trpo_eval(*arguments)
            if "--video" in arguments and "apt-get install" in done.err:
                continue  # what the README says is missing, is
        elif program == "trpo-report":
            done = trpo_report(*arguments)
        else:
            other(program, arguments, tmp_path)
            continue
        assert done.status == 0, f"{command}\n{done.err}"


def shortened(arguments: list[str]) -> list[str]:
    """A command that ends within seconds."""
    if {"--help", "--cfg", "--install-completion"} & set(arguments):
        return arguments
    if "experiment=benchmark/mujoco_1m" in arguments:
        return [*arguments, "algo=trpo", "seed=0", *FEWER[1:]]
    if any(argument.startswith(("experiment=paper/", "experiment=npg")) for argument in arguments):
        return [*arguments, *FEWER]
    if "hydra/sweeper=optuna" in arguments:  # episodes of Swimmer are long, and a trial without any has failed
        short = ["env=CartPole-v1" if argument == "env=Swimmer-v4" else argument for argument in arguments]
        return [*short, *SHORT, *SINGLE_PATH, *SEARCH]
    if any("vine" in argument for argument in arguments):
        return [*arguments, *SHORT, *SINGLE_PATH[:1], *VINE]
    exact = {"algo=cpi", "algo=monotone_pi", "sampler=exact"} & set(arguments)
    return [*arguments, *SHORT[:2], "total_steps=2"] if exact else [*arguments, *SHORT, *SINGLE_PATH]


def other(program: str, arguments: list[str], directory: Path) -> None:
    """Commands that would train for minutes or serve for ever: what they name is there, and they begin well."""
    if program == "make":
        subprocess.run(["make", "-n", *arguments], cwd=ROOT, check=True, capture_output=True)
    elif program == "tensorboard":
        assert (directory / arguments[1]).is_dir()
        subprocess.run([Path(sys.executable).with_name(program), "--version"], check=True, capture_output=True)
    elif arguments[:1] == ["install"] and (directory / arguments[-1] / "pyproject.toml").exists():
        offline = ("--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")
        command = [sys.executable, "-m", "pip", *arguments, *offline, "--target", SITE]
        subprocess.run(command, cwd=directory, check=True, capture_output=True)
        importlib.invalidate_caches()
    elif program == "pip":  # test_packaging installs for real
        assert all((ROOT / name).exists() for name in arguments if not name.startswith("-") and name != "install")
    else:
        pytest.fail(f"no test knows how to run {program}")


def test_every_link_leads_somewhere() -> None:
    for text in (README, (ROOT / "runs" / "README.md").read_text(encoding="utf-8")):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
            assert (ROOT / target).exists(), target


def test_the_results_are_those_of_the_published_runs() -> None:
    """Every number of the table, from `results.csv`, which has a row for each run, and from what others published."""
    with (ROOT / "runs" / "reference" / "results.csv").open() as file:
        runs = list(csv.DictReader(file))
    table = re.findall(r"^\| (\S+-v\d) \| `(\w+)` \| (.+) \|$", DASHED, re.MULTILINE)
    assert {(task, algo) for task, algo, _ in table} == {(run["task"], run["algo"]) for run in runs}
    tests: list[float | None] = []
    for task, algo, cells in table:
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
    assert told == [cells.split(" | ")[-1] for _, _, cells in table]
    assert sum(p is not None for p in tests) == 24
    assert sum(p is not None and p < 0.05 for p in tests) == 7 + 6
    assert sum(p is not None and p < 0.05 for p in holm(tests)) == 7
    assert "for the 24 tests" in README
    assert "Corrected, seven rows are\ndecided, all of them ahead" in README


def held_against(task: str, algo: str, ours: np.ndarray) -> tuple[str, float | None]:
    """The best published number that compares, as the table has it, and the p-value of Welch's test."""
    best = max((n for n in published(task) if n.compares(algo, 1_000_000)), key=lambda n: n.value, default=None)
    if best is None:
        return "-", None
    test = difference(estimate([ours]), known(best.value, best.spread, best.seeds or 1))
    assert test.p_value() is None or test.value > 0, "the text says that no mean is below the published number"
    deviation = "" if best.spread is None else f" ± {best.spread}"
    return f"{best.value}{deviation} {best.source}", test.p_value()


def tiny(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def test_the_intervals_of_the_search_are_those_of_its_five_seeds() -> None:
    rows = re.findall(r"\| ((?:-?\d+, ){4}-?\d+) \| (\d+) \((-?\d+) to (-?\d+)\) \|", DASHED)
    assert len(rows) == 3
    for texts in rows:
        seeds, mean, low, high = (np.array(text.split(", "), float) for text in texts)
        np.testing.assert_allclose((mean[0], low[0], high[0]), (seeds.mean(), *bounds([seeds])), atol=0.5)


def rounded(number: float) -> str:
    """As the table has it."""
    return f"{number:.1f}" if abs(number) < 100 else f"{number:.0f}"


def test_the_published_report_is_that_of_the_published_runs() -> None:
    """Every table of `runs/reference/report`, made anew of the archive by the options of its command."""
    folder = ROOT / "runs" / "reference"
    made = content(find([folder]), Options(compare=True, versus=["trpo"]))
    for table in (section.table for section in made.sections if section.table and section.table.name != "runs"):
        with (folder / "report" / f"{table.name}.csv").open(newline="", encoding="utf-8") as file:
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
    runs = find([ROOT / "runs" / "reference" / f"paper_{experiment}"])
    made = {s.table.name: s.table for s in content(runs, Options(versus=["trpo"])).sections if s.table}
    results = [dict(zip(made["results"].columns, row, strict=True)) for row in made["results"].rows]
    expected = {}
    for row in results:
        mean, (low, high) = float(row["final training return"]), str(row["95 % interval"]).split(" to ")
        expected[row["algorithm"]] = f"{mean:.0f} ({float(low):.0f} to {float(high):.0f})"
    told = re.findall(r"^\| `(\w+)`(?:, the best multiplier)? \| ([^|]+ to [^|]+) \| ([^|]+) \|$", DASHED, re.MULTILINE)
    assert {algo: cells[place].strip() for algo, *cells in told} == expected
    versus = [dict(zip(made["versus"].columns, row, strict=True)) for row in made["versus"].rows]
    assert len(versus) == 7
    assert {row["B"] for row in versus if float(row["p (Holm)"]) < 0.05} == decided


def test_the_exact_returns_are_those_of_the_published_runs() -> None:
    runs = {run.algo: run for run in find([ROOT / "runs" / "reference" / "exact"])}
    table = re.findall(r"^\| (`\w+`(?:, `\w+`)?) \| (0\.0\d{5} \|.+)\|$", README, re.MULTILINE)
    assert [names for names, _ in table] == ["`monotone_pi`", "`cpi`", "`vpg`", "`trpo`, `npg`"]
    for names, cells in table:
        for algo in re.findall(r"\w+", names):
            rows = runs[algo].rows
            for power, cell in enumerate(cells.split("|")[:5]):
                there = rows["exact/return"][rows["iterations"] == 10**power]
                assert cell.strip() == (f"{there[0]:.6f}" if len(there) else ""), (algo, power)


@pytest.mark.parametrize(
    ("archive", "task", "line"),
    [
        ("vine", "CartPole-v1", "CartPole-v1, 2M"),
        ("vine", "FrozenLake-v1", "FrozenLake-v1, 3M"),
        ("vine", "Swimmer-v4", "Swimmer-v4, 4M"),
        ("vine", "Hopper-v4", "Hopper-v4, 8M"),
        ("closed_vine", "Hopper-v4", "Hopper-v4, 1M, `closed_vine`"),
    ],
)
def test_the_returns_of_vine_are_those_of_the_published_runs(archive: str, task: str, line: str) -> None:
    folder = ROOT / "runs" / "reference"
    with (folder / archive / "results.csv").open() as file:
        runs = [run for run in csv.DictReader(file) if run["task"] == task]
    text = (folder / "README.md").read_text(encoding="utf-8")
    training, evaluation = text.partition(f"| {line} | ")[2].partition(" |\n")[0].split(" | ")
    assert training == ", ".join(f"{float(run['final_training_return']):.{2 * (task[0] == 'F')}f}" for run in runs)
    if task != "FrozenLake-v1":  # evaluated again, over more episodes
        assert evaluation == ", ".join(f"{float(run['final_evaluation_return']):.0f}" for run in runs)
