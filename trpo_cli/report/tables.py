"""The tables of a report, each made from groups of runs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trpo_cli.columns import EVALUATION, EXACT_RETURN, INFO, RECENT, RETURN
from trpo_cli.errors import counted
from trpo_cli.report.diagnostics import MEASURES, summarise
from trpo_cli.report.groups import Group
from trpo_cli.report.measures import (
    bests,
    common_step,
    count_unit,
    finals,
    latest,
    name_metric,
    speeds,
    steps_to_threshold,
)
from trpo_cli.report.numbers import Interval, format_exact
from trpo_cli.report.runs import RunRecord
from trpo_cli.report.table import Cell, Table
from trpo_cli.run.layout import METRICS
from trpo_cli.run.progress import AT_RETURN
from trpo_cli.statistics import Floats, Statistic, are_enough, bounds

NAMED = 3  # algorithms in a warning


def finite_or_none(value: float) -> float | None:
    """Return a number for a cell, None if it is missing."""
    return float(value) if math.isfinite(value) else None


def make_interval(strata: Sequence[Floats], statistic: Statistic) -> Cell:
    """The 95 % interval over runs, strata of a task each; of too few runs the smallest and the largest."""
    if sum(map(len, strata)) < 2:
        return "one seed"
    low, high = bounds(strata, statistic)
    return Interval(float(low), float(high), extremes=not are_enough(strata))


RETURNS = {
    RETURN: "the mean of the last 100 episodes, with sampled actions; it lags behind the policy in a short run",
    EVALUATION: "the latest mean of episodes with the most likely actions",
    RECENT: "the mean of the episodes that ended in it, with sampled actions",
}
"""The columns that are returns, and how they are measured."""
EXACT = "that of the policy itself, computed without samples"


def describe_returns(groups: Sequence[Group], metric: str) -> list[tuple[str, str]]:
    """Of the metric and of the returns that the runs have beside it: its name, and how it is measured."""
    others = _list_other_returns(groups, metric)
    return [
        (name_metric(name), RETURNS.get(name, EXACT if name == EXACT_RETURN else f"a column of {METRICS}"))
        for name in (metric, *others)
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
        rows.append((*row, make_interval([final], statistic), float(statistic(best)), *more))
    (what, _), *others = describe_returns(groups, metric)
    columns = ("task", "algorithm", "runs", "steps", f"final {what}", "95 % interval", f"best {what}")
    beside = [heading for name, _ in others for heading in (f"final {name}", f"95 % interval of the {name}")]
    return Table("results", "Results", (*columns, *beside), tuple(rows), unit=count_unit(groups))


def _format_other_return(group: Group, column: str, metric: str, statistic: Statistic) -> tuple[Cell, Cell]:
    """The value of another return, and its interval; None where not every run has it."""
    values = latest(group, column, metric)
    if len(values) < len(group.runs):
        return None, None
    return float(statistic(values)), make_interval([values], statistic)


def efficiency(groups: Sequence[Group], metric: str, thresholds: dict[str, list[tuple[float, str]]]) -> Table:
    """How many steps a threshold takes; thresholds: task -> values, and where each is from."""
    rows: list[tuple[Cell, ...]] = []
    for group, (threshold, origin) in [(each, found) for each in groups for found in thresholds[each.task]]:
        steps = steps_to_threshold(group, metric, threshold)
        there, ended = steps[np.isfinite(steps)], np.isinf(steps) & find_stopped(group)
        before = f"; {AT_RETURN} ended {ended.sum()} before" if ended.any() else ""
        reached = f"{len(there)} of {len(steps)}{before}"
        least = np.median(np.where(ended, [record.steps for record in group.runs], steps))
        median = finite_or_none(np.median(steps)) if least == np.median(steps) else None
        rows.append((group.task, group.label, threshold, origin, reached, median, format_ends(there)))
    columns = ("task", "algorithm", "threshold", "which is", "runs that reach it", "median steps", "fewest to most")
    note = "The median counts every run; it is missing where half of them or more never reach the threshold."
    if any(AT_RETURN in str(row[4]) for row in rows):
        note = f"{note[:-1]}, and where it depends on a run that {AT_RETURN} ended before."
    short = [r for g in groups for r in g.runs if r.is_thinned() and not (r.whole and metric in r.whole.rises)]
    said = f"{note}{note_thinned(short)}"
    return Table("efficiency", "Sample efficiency", columns, tuple(rows), said, count_unit(groups))


def find_stopped(group: Group) -> NDArray[np.bool_]:
    """Whether each run ended early because its return was enough (S,): nobody knows when it would reach more."""
    return np.array([record.goal is not None for record in group.runs])


def format_ends(steps: Floats) -> str | None:
    """The fewest and the most steps (S,)."""
    return " to ".join(dict.fromkeys(f"{end:,.0f}" for end in (steps.min(), steps.max()))) if len(steps) else None


def stops(groups: Sequence[Group]) -> Table:
    """How many steps the runs took until `stop.at_return` ended them."""
    rows: list[tuple[Cell, ...]] = []
    for group in groups:
        steps = np.array([float(record.steps) for record in group.runs])[find_stopped(group)]
        goals = sorted({record.goal for record in group.runs if record.goal is not None})
        if goals:
            mean = float(steps.mean()) if len(steps) == len(group.runs) else None
            ended = f"{len(steps)} of {len(group.runs)}"
            rows.append((group.task, group.label, ", ".join(map(format_exact, goals)), ended, mean, format_ends(steps)))
    columns = ("task", "algorithm", AT_RETURN, "runs that it ended", "mean steps", "fewest to most")
    note = "The mean is missing where some runs of the group did not get there."
    some = any(row[4] is None for row in rows)
    return Table("stops", f"Steps until {AT_RETURN}", columns, tuple(rows), note if some else "", count_unit(groups))


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
            Interval(round(rates.min()), round(rates.max())),
        )
        for group in groups
        if len(rates := speeds(group))
    )
    columns = ("task", "algorithm", "runs", "wall seconds", "steps a second", "slowest to fastest")
    note = (
        "Medians over the runs, as far as each has come. A finished run's seconds are all of its seconds, evaluations"
    )
    return Table(
        "speed",
        "Time",
        columns,
        rows,
        f"{note} included; another's are those of sampling and updates.",
        count_unit(groups),
    )


def trust_region(groups: Sequence[Group]) -> Table:
    """Make the table of diagnostics of the trust region: a number for each run, summarised over the runs."""
    rows: list[tuple[Cell, ...]] = []
    for group in groups:
        measured = [summarise(record) for record in group.runs]
        values = {name: np.array([run[name] for run in measured if name in run]) for name in MEASURES}
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
        rows.append((label, len(tasks), len(scores), value, make_interval([*tasks.values()], statistic)))
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
    named = "; ".join([*lacking[:NAMED], *more])
    return f"Not all algorithms were run on the same tasks, and only those that were compare: {named}."


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


def list_infos(groups: Sequence[Group]) -> list[str]:
    """List the columns of numbers from infos."""
    return sorted({name for group in groups for record in group.runs for name in record.rows if INFO in name})


def infos(groups: Sequence[Group], metric: str, statistic: Statistic) -> Table:
    """Make the table of the last value of every number from infos that a group has, in training and in evaluations."""
    rows: list[tuple[Cell, ...]] = []
    for group in groups:
        for name in dict.fromkeys(column.partition(INFO)[2] for column in list_infos([group])):
            columns = (f"{kind}{INFO}{name}" for kind in ("rollout", "eval"))
            cells = [cell for column in columns for cell in _format_other_return(group, column, metric, statistic)]
            rows.append((group.task, group.label, name, len(group.runs), *cells))
    heads = ("training", "95 % interval", "evaluation", "95 % interval of the evaluation")
    return Table("infos", "Numbers from infos", ("task", "algorithm", "number", "runs", *heads), tuple(rows))
