"""The tables of a report, as Markdown, CSV and, by the template of the page, HTML."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from textwrap import wrap
from typing import Any

import numpy as np

from trpo_cli.cli.tables import format_table
from trpo_cli.errors import counted
from trpo_cli.report.diagnostics import MEASURES, summarise
from trpo_cli.report.groups import Group
from trpo_cli.report.measures import bests, common_step, finals, latest, speeds, steps_to_threshold
from trpo_cli.report.runs import EVALUATION, RECENT, RunRecord
from trpo_cli.run.layout import METRICS
from trpo_cli.run.state import RETURN
from trpo_cli.statistics import Floats, Statistic, are_enough, bounds

Cell = str | float | int | None
INFO = "/info/"  # in the columns of numbers from infos
NOTHING = "—"
NAMED = 3  # algorithms in a warning
EXACT = 99_999.5  # below it numbers have five digits, above it none after the point
NARROW = 14  # letters of a heading on a terminal, or as many as the longest cell has


@dataclass(frozen=True)
class Table:
    """Rows and columns; `name` is the name of the CSV file."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def is_numeric(self, place: int) -> bool:
        """Whether a column holds only numbers."""
        return all(isinstance(row[place], int | float | None) for row in self.rows)

    def to_markdown(self) -> str:
        """Numbers shortened, text that Markdown would take for its own escaped."""
        rule = "|".join("---:" if self.is_numeric(place) else "---" for place in range(len(self.columns)))
        rows = "".join(f"| {' | '.join(escape(format_cell(cell)) for cell in row)} |\n" for row in self.rows)
        return f"| {' | '.join(self.columns)} |\n|{rule}|\n{rows}"

    def to_text(self) -> str:
        """For a terminal: its headings in as many lines as their columns are narrow."""
        cells = [tuple(map(format_cell, row)) for row in self.rows]
        widths = [max(NARROW, *map(len, column)) for column in zip(*cells, strict=True)]
        heads = [wrap(name, width) for name, width in zip(self.columns, widths, strict=True)]
        return format_table([*zip_longest(*heads, fillvalue=""), *cells]) + "\n"

    def to_csv(self) -> str:
        """Return numbers in full, and empty cells for missing ones."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return text.getvalue()


def format_cell(cell: Cell) -> str:
    """Format a cell for people."""
    if cell is None:
        return NOTHING
    if isinstance(cell, str):
        return cell
    return f"{cell:,}" if isinstance(cell, int) else f"{cell:,.5g}" if abs(cell) < EXACT else f"{cell:,.0f}"


def escape(text: str) -> str:
    """Escape `text` for a cell of a Markdown table."""
    for letter, code in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("\n", " ")):
        text = text.replace(letter, code)
    return text


def finite_or_none(value: float) -> float | None:
    """Return a number for a cell, None if it is missing."""
    return float(value) if math.isfinite(value) else None


def format_range(low: Any, high: Any) -> str:
    """Format a range of numbers."""
    return f"{format_cell(float(low))} to {format_cell(float(high))}"


def format_interval(strata: Sequence[Floats], statistic: Statistic) -> str:
    """The 95 % interval over runs, strata of a task each, in words; of too few runs the smallest and the largest."""
    if sum(map(len, strata)) < 2:
        return "one seed"
    return format_range(*bounds(strata, statistic)) + ("" if are_enough(strata) else " (min to max)")


RETURNS = {
    RETURN: ("training return", "sampled actions, the mean of the last 100 episodes: in a short run it lags behind"),
    EVALUATION: ("evaluation", "the likeliest actions, the last one by then"),
    RECENT: ("training return of the last iteration", "sampled actions, the episodes that ended in it"),
}
"""The columns that are returns: their names, and how they are measured."""


def describe_returns(groups: Sequence[Group], metric: str) -> list[tuple[str, str]]:
    """Of the metric and of the returns that the runs have beside it: its name, and how it is measured."""
    return [
        RETURNS.get(name, (name, f"a column of {METRICS}")) for name in (metric, *_list_other_returns(groups, metric))
    ]


def _list_other_returns(groups: Sequence[Group], metric: str) -> list[str]:
    return [name for name in RETURNS if name != metric and any(r.has(name) for g in groups for r in g.runs)]


def results(groups: Sequence[Group], metric: str, statistic: Statistic) -> Table:
    """Final and best numbers where all runs of a group have arrived, and what other returns there are beside them."""
    rows: list[tuple[Cell, ...]] = []
    for group in groups:
        final, best = finals(group, metric), bests(group, metric)
        row = (group.task, group.label, len(group.runs), int(common_step(group, metric)), float(statistic(final)))
        more = [
            cell
            for name in _list_other_returns(groups, metric)
            for cell in _format_other_return(group, name, metric, statistic)
        ]
        rows.append((*row, format_interval([final], statistic), float(statistic(best)), *more))
    (what, _), *others = describe_returns(groups, metric)
    columns = ("task", "algorithm", "runs", "steps", f"final {what}", "95 % interval", f"best {what}")
    beside = [heading for name, _ in others for heading in (f"final {name}", f"95 % interval of the {name}")]
    return Table("results", "Final and best", (*columns, *beside), tuple(rows))


def _format_other_return(group: Group, column: str, metric: str, statistic: Statistic) -> tuple[Cell, Cell]:
    """The value of another return, and its interval; None where not every run has it."""
    values = latest(group, column, metric)
    if len(values) < len(group.runs):
        return None, None
    return float(statistic(values)), format_interval([values], statistic)


def infos(groups: Sequence[Group], metric: str, statistic: Statistic) -> Table:
    """The last value of every number from infos that a group has, in training and in evaluations."""
    rows: list[tuple[Cell, ...]] = []
    for group in groups:
        for name in sorted({found.partition(INFO)[2] for r in group.runs for found in r.rows if INFO in found}):
            columns = (f"{kind}{INFO}{name}" for kind in ("rollout", "eval"))
            cells = [cell for column in columns for cell in _format_other_return(group, column, metric, statistic)]
            rows.append((group.task, group.label, name, len(group.runs), *cells))
    heads = ("training", "95 % interval", "evaluation", "95 % interval of the evaluation")
    return Table("infos", "Numbers from infos", ("task", "algorithm", "number", "runs", *heads), tuple(rows))


def efficiency(groups: Sequence[Group], metric: str, thresholds: dict[str, list[tuple[float, str]]]) -> Table:
    """How many steps a threshold takes; thresholds: task -> values, and where each is from."""
    rows: list[tuple[Cell, ...]] = []
    for group, (threshold, origin) in [(each, found) for each in groups for found in thresholds[each.task]]:
        steps = steps_to_threshold(group, metric, threshold)
        there = steps[np.isfinite(steps)]
        fewest = f"{there.min():,.0f} to {there.max():,.0f}" if len(there) else None
        reached = f"{len(there)} of {len(steps)}"
        rows.append(
            (group.task, group.label, threshold, origin, reached, finite_or_none(float(np.median(steps))), fewest)
        )
    columns = ("task", "algorithm", "threshold", "which is", "runs that reach it", "median steps", "fewest to most")
    note = "The median counts every run; it is missing where half of them or more never reach the threshold."
    short = [r for g in groups for r in g.runs if r.is_thinned() and not (r.whole and metric in r.whole.rises)]
    return Table("efficiency", "Sample efficiency", columns, tuple(rows), f"{note}{note_thinned(short)}")


def note_thinned(records: Sequence[RunRecord]) -> str:
    """Note that numbers come from a part of the rows, if they do."""
    if not records:
        return ""
    most = max(record.count_rows() for record in records)
    return f" Of {counted(len(records), 'archived run')}, only the rows that were kept count, {most} or fewer of each."


def speed(groups: Sequence[Group]) -> Table:
    """Make the table of wall time and steps per second, medians over the runs."""
    rows = tuple(
        (
            group.task,
            group.label,
            len(rates),
            round(float(np.median([r.wall_seconds for r in group.runs])), 1),
            round(float(np.median(rates))),
            f"{rates.min():,.0f} to {rates.max():,.0f}",
        )
        for group in groups
        if len(rates := speeds(group))
    )
    columns = ("task", "algorithm", "runs", "wall seconds", "steps a second", "slowest to fastest")
    note = (
        "Medians over the runs, as far as each has come. A finished run's seconds are all of its seconds, evaluations"
    )
    return Table("speed", "Time", columns, rows, f"{note} included; another's are those of sampling and updates.")


def trust_region(groups: Sequence[Group]) -> Table:
    """Make the table of diagnostics of the trust region: a number for each run, summarised over the runs."""
    rows: list[tuple[Cell, ...]] = []
    for group in groups:
        told = [summarise(record) for record in group.runs]
        values = {name: np.array([run[name] for run in told if name in run]) for name in MEASURES}
        cells = [
            finite_or_none(over(values[name])) if len(values[name]) else None for name, (_, _, over) in MEASURES.items()
        ]
        rows.append((group.task, group.label, *cells))
    note = "Medians are medians of the runs' medians, means are means of theirs."
    short = [record for group in groups for record in group.runs if record.is_thinned() and not record.whole]
    columns = ("task", "algorithm", *MEASURES)
    return Table("diagnostics", "Trust region", columns, tuple(rows), f"{note}{note_thinned(short)}")


def aggregate(strata: dict[str, dict[str, Floats]], statistic: Statistic) -> Table:
    """Normalised final returns over all tasks; strata: label -> task -> scores (S_m,)."""
    rows: list[tuple[Cell, ...]] = []
    for label, tasks in strata.items():
        scores = np.concatenate([*tasks.values()])
        value = float(statistic(scores))
        rows.append((label, len(tasks), len(scores), value, format_interval([*tasks.values()], statistic)))
    columns = ("algorithm", "tasks", "runs", f"{statistic.name} of normalised scores", "95 % interval")
    return Table("aggregate", "All tasks together", columns, tuple(rows), note_unequal_tasks(strata))


def note_unequal_tasks(strata: dict[str, dict[str, Floats]]) -> str:
    """Warn if algorithms have different tasks."""
    every = list(dict.fromkeys(task for tasks in strata.values() for task in tasks))
    missing = {label: [task for task in every if task not in tasks] for label, tasks in strata.items()}
    lacking = [f"{label} lacks {', '.join(tasks)}" for label, tasks in missing.items() if tasks]
    if not lacking:
        return ""
    more = [f"and {len(lacking) - NAMED} more"] if len(lacking) > NAMED else []
    told = "; ".join([*lacking[:NAMED], *more])
    return f"Not all algorithms were run on the same tasks, and only those that were compare: {told}."


def runs(records: Sequence[RunRecord], labels: dict[int, str]) -> Table:
    """One row per run, whatever its status; labels: id of a record -> its group."""
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            r.status,
            r.task or None,
            r.algo or None,
            labels.get(id(r)),
            r.seed,
            r.steps,
            finite_or_none(r.last(r.headline)),
            finite_or_none(r.last(EVALUATION)),
            finite_or_none(r.best(r.headline)),
            finite_or_none(r.wall_seconds),
            finite_or_none(r.steps / r.wall_seconds) if r.wall_seconds else None,
            r.where(),
            r.note or None,
        )
        for r in records
    )
    columns: tuple[str, ...] = ("status", "task", "algo", "group", "seed", "env_steps", "final_training_return")
    columns = (*columns, "final_evaluation_return", "best_training_return", "wall_seconds", "steps_per_second")
    return Table("runs", "Runs", (*columns, "directory", "note"), rows)
