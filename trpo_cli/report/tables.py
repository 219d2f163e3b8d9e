"""The tables, each as Markdown, CSV and, by the page's template, HTML."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from textwrap import wrap
from typing import Any

import numpy as np

from trpo_cli.aligned import aligned
from trpo_cli.report.groups import Group
from trpo_cli.report.measures import (
    ACCEPTED,
    BACKTRACKS,
    KL,
    RESIDUAL,
    bests,
    common_step,
    diagnostics,
    evaluations,
    finals,
    reaching,
    speeds,
)
from trpo_cli.report.published import Published
from trpo_cli.report.runs import EVALUATION, RunRecord
from trpo_cli.state import RETURN
from trpo_cli.statistics import STATISTICS, Floats, interval

Cell = str | float | int | None
NOTHING = "—"
NAMED = 3  # algorithms in a warning
EXACT = 99_999.5  # below it numbers have five digits, above it none after the point
NARROW = 14  # letters of a heading on a terminal, or as many as the longest cell has


@dataclass(frozen=True)
class Table:
    """Rows under their columns; `name` is that of its CSV file."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def numeric(self, place: int) -> bool:
        """Whether a column holds nothing but numbers."""
        return all(isinstance(row[place], int | float | None) for row in self.rows)

    def markdown(self) -> str:
        """Numbers shortened, text that Markdown would take for its own escaped."""
        rule = "|".join("---:" if self.numeric(place) else "---" for place in range(len(self.columns)))
        rows = "".join(f"| {' | '.join(escaped(shown(cell)) for cell in row)} |\n" for row in self.rows)
        return f"| {' | '.join(self.columns)} |\n|{rule}|\n{rows}"

    def text(self) -> str:
        """For a terminal: its headings in as many lines as their columns are narrow."""
        cells = [tuple(map(shown, row)) for row in self.rows]
        widths = [max(NARROW, *map(len, column)) for column in zip(*cells, strict=True)]
        heads = [wrap(name, width) for name, width in zip(self.columns, widths, strict=True)]
        return aligned([*zip_longest(*heads, fillvalue=""), *cells]) + "\n"

    def csv(self) -> str:
        """Numbers in full, nothing where there is none."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return text.getvalue()


def shown(cell: Cell) -> str:
    """A cell for people."""
    if cell is None:
        return NOTHING
    if isinstance(cell, str):
        return cell
    return f"{cell:,}" if isinstance(cell, int) else f"{cell:,.5g}" if abs(cell) < EXACT else f"{cell:,.0f}"


def escaped(text: str) -> str:
    """`text` within a cell of a Markdown table."""
    for letter, code in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("\n", " ")):
        text = text.replace(letter, code)
    return text


def number(value: float) -> float | None:
    """A number for a cell: nothing where there is none."""
    return float(value) if math.isfinite(value) else None


def spread(samples: Floats, statistic: str) -> str:
    """The 95 % interval over runs, in words."""
    if len(samples) < 2:
        return "one seed"
    low, high = interval([samples], STATISTICS[statistic])
    return f"{shown(float(low))} to {shown(float(high))}"


def results(groups: Sequence[Group], metric: str, statistic: str) -> Table:
    """Final and best numbers where all runs of a group have arrived."""
    what = "training return" if metric == RETURN else metric
    rows: list[tuple[Cell, ...]] = []
    for group in groups:
        final, best, evaluated = (measure(group, metric) for measure in (finals, bests, evaluations))
        value = STATISTICS[statistic]
        evaluation = number(value(evaluated).item()) if len(evaluated) == len(group.runs) else None
        rows.append(
            (
                group.task,
                group.label,
                len(group.runs),
                int(common_step(group, metric)),
                float(value(final)),
                spread(final, statistic),
                float(value(best)),
                evaluation,
                spread(evaluated, statistic) if evaluation is not None else None,
            )
        )
    columns: tuple[str, ...] = ("task", "algorithm", "runs", "steps", f"final {what}", "95 % interval", f"best {what}")
    columns = (*columns, "final evaluation", "95 % interval of the evaluation")
    return Table("results", "Final and best", columns, tuple(rows))


def efficiency(groups: Sequence[Group], metric: str, thresholds: dict[str, tuple[float, str]]) -> Table:
    """How many steps a threshold takes; thresholds: task -> value, and where it is from."""
    rows: list[tuple[Cell, ...]] = []
    for group in groups:
        threshold, origin = thresholds[group.task]
        steps = reaching(group, metric, threshold)
        there = steps[np.isfinite(steps)]
        span = f"{there.min():,.0f} to {there.max():,.0f}" if len(there) else None
        reached = f"{len(there)} of {len(steps)}"
        rows.append((group.task, group.label, threshold, origin, reached, number(float(np.median(steps))), span))
    columns = ("task", "algorithm", "threshold", "which is", "runs that reach it", "median steps", "fewest to most")
    note = "The median counts every run; it is missing where half of them or more never reach the threshold."
    return Table("efficiency", "Sample efficiency", columns, tuple(rows), note)


def speed(groups: Sequence[Group]) -> Table:
    """Wall time and steps a second, medians over the runs."""
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
    """What the runs tell of their trust region, over all their rows."""
    rows: list[tuple[Cell, ...]] = []
    for group in groups:
        told = [diagnostics(record) for record in group.runs]
        measures: list[float] = []
        for name, measure in INSIDE:
            values = np.concatenate([np.empty(0), *(run[name] for run in told if name in run)])
            values = values[~np.isnan(values)]
            measures.append(float(measure(values)) if len(values) else math.nan)
        rows.append((group.task, group.label, *map(number, measures)))
    columns = ("task", "algorithm", "median KL / δ", "largest KL / δ", "share of KL > δ", "mean backtracks")
    columns_of_the_solver = ("median CG residual", "accepted share")
    return Table("diagnostics", "Trust region", (*columns, *columns_of_the_solver), tuple(rows))


INSIDE: tuple[tuple[str, Callable[[Floats], Any]], ...] = (
    (KL, np.median),
    (KL, np.max),
    (KL, lambda ratios: (ratios > 1).mean()),
    (BACKTRACKS, np.mean),
    (RESIDUAL, np.median),
    (ACCEPTED, np.mean),
)
"""The columns of that table: a diagnostic, and the measure of all its values."""


def comparison(groups: Sequence[Group], numbers: dict[str, list[Published]], metric: str, statistic: str) -> Table:
    """Our numbers beside the published ones; numbers: task -> those there are."""
    rows: list[tuple[Cell, ...]] = []
    for group in groups:
        if not numbers[group.task]:
            continue
        steps = int(common_step(group, metric))
        trained = finals(group, metric) if metric == RETURN else np.empty(0)
        for how, values in (
            ("training, last 100 episodes", trained),
            ("evaluation", evaluations(group, metric)),
        ):
            if len(values) == len(group.runs):
                value = float(STATISTICS[statistic](values))
                deviation = float(values.std(ddof=1)) if len(values) > 1 else None
                rows.append((group.task, group.label, "these runs", value, deviation, len(values), steps, how, None))
    for task, found in numbers.items():
        rows += [(task, p.algo, p.source, p.value, p.spread, p.seeds, p.steps, p.measured, p.link) for p in found]
    rows.sort(key=lambda row: (str(row[0]), row[2] != "these runs"))
    columns = ("task", "algorithm", "source", "return", "± over seeds", "seeds", "steps", "measured", "link")
    return Table("comparison", "Beside published numbers", columns, tuple(rows))


def aggregate(strata: dict[str, dict[str, Floats]], statistic: str) -> Table:
    """Normalised final returns over all tasks; strata: label -> task -> scores (S_m,)."""
    rows: list[tuple[Cell, ...]] = []
    for label, tasks in strata.items():
        scores = np.concatenate([*tasks.values()])
        low, high = interval([*tasks.values()], STATISTICS[statistic])
        value = float(STATISTICS[statistic](scores))
        rows.append((label, len(tasks), len(scores), value, f"{low:.3g} to {high:.3g}"))
    columns = ("algorithm", "tasks", "runs", f"{statistic} of normalised scores", "95 % interval")
    return Table("aggregate", "All tasks together", columns, tuple(rows), unequal(strata))


def unequal(strata: dict[str, dict[str, Floats]]) -> str:
    """A warning, if algorithms have different tasks."""
    every = list(dict.fromkeys(task for tasks in strata.values() for task in tasks))
    missing = {label: [task for task in every if task not in tasks] for label, tasks in strata.items()}
    lacking = [f"{label} lacks {', '.join(tasks)}" for label, tasks in missing.items() if tasks]
    if not lacking:
        return ""
    more = [f"and {len(lacking) - NAMED} more"] if len(lacking) > NAMED else []
    told = "; ".join([*lacking[:NAMED], *more])
    return f"Not all algorithms were run on the same tasks, and only those that were compare: {told}."


def runs(records: Sequence[RunRecord], labels: dict[int, str]) -> Table:
    """One row a run, whatever became of it; labels: id of a record -> its group."""
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            r.status,
            r.task or None,
            r.algo or None,
            labels.get(id(r)),
            r.seed,
            r.steps,
            number(r.last(RETURN)),
            number(r.last(EVALUATION)),
            number(r.best(RETURN)),
            number(r.wall_seconds),
            number(r.steps / r.wall_seconds) if r.wall_seconds else None,
            r.where(),
            r.note or None,
        )
        for r in records
    )
    columns: tuple[str, ...] = ("status", "task", "algo", "group", "seed", "env_steps", "final_training_return")
    columns = (*columns, "final_evaluation_return", "best_training_return", "wall_seconds", "steps_per_second")
    return Table("runs", "Runs", (*columns, "directory", "note"), rows)
