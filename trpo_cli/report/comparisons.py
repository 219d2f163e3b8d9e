"""Comparisons of groups with each other and with published numbers: differences and their uncertainty."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from trpo_cli.columns import EVALUATION, RETURN
from trpo_cli.errors import RunDirectoryError, did_you_mean
from trpo_cli.report.groups import Group
from trpo_cli.report.measures import common_step, finals, latest
from trpo_cli.report.numbers import Interval
from trpo_cli.report.published import Published
from trpo_cli.report.references import Scale, find_best_published
from trpo_cli.report.table import Cell, Table
from trpo_cli.statistics import (
    FEWEST,
    Estimate,
    Floats,
    Statistic,
    are_enough,
    combination,
    difference,
    estimate,
    estimate_from_summary,
    holm,
    improvement_probability,
    mean_improvement,
)

TRAINING = "training, last 100 episodes"
TOO_FEW = f"under {FEWEST} runs"
TESTED = ("95 % interval of the difference", "p", "p (Holm)")


def comparison(
    groups: Sequence[Group], numbers: dict[str, list[Published]], metric: str, statistic: Statistic
) -> Table:
    """Make the table of these runs and the published numbers; numbers: task -> its published numbers."""
    rows: list[tuple[Cell, ...]] = []
    for group in groups:
        if not numbers[group.task] or group.alterations:
            continue
        steps = int(common_step(group, metric))
        for how, values in _measure(group, metric).items():
            if len(values) == len(group.runs):
                deviation = float(values.std(ddof=1)) if len(values) > 1 else None
                cells = (float(statistic(values)), deviation, len(values), steps, how, None)
                rows.append((group.task, group.label, "these runs", *cells))
    for task, found in numbers.items():
        rows += [(task, p.algo, p.source, p.value, p.spread, p.seeds, p.steps, p.measured, p.link) for p in found]
    rows.sort(key=lambda row: (str(row[0]), row[2] != "these runs"))
    columns = ("task", "algorithm", "source", "return", "± over seeds", "seeds", "steps", "measured", "link")
    return Table("comparison", "Beside published numbers", columns, tuple(rows))


def _measure(group: Group, metric: str) -> dict[str, Floats]:
    """Return the values of the runs, by how the return is measured."""
    trained = finals(group, metric) if metric == RETURN else np.empty(0)
    return {TRAINING: trained, "evaluation": latest(group, EVALUATION, metric)}


def published(groups: Sequence[Group], numbers: dict[str, list[Published]], metric: str) -> Table:
    """Compare each group with the best comparable published number of its algorithm, always by means."""
    rows: list[tuple[Cell, ...]] = []
    tests: list[Estimate | None] = []
    for group in groups:
        best = find_best_published([group], numbers[group.task], metric)
        ours = _measure(group, metric)
        whole = [how for how, values in ours.items() if len(values) == len(group.runs)]
        if best is None or not whole:
            continue
        how = whole[0] if best.kind == "training" else whole[-1]
        gain = float(ours[how].mean()) - best.value
        cells = (best.value, best.spread, best.seeds, best.source, f"{how}; {best.kind}", gain)
        rows.append((group.task, group.label, len(group.runs), float(ours[how].mean()), *cells))
        theirs = estimate_from_summary(best.value, best.spread, best.seeds or 1)
        tests.append(difference(estimate([ours[how]]), theirs) if len(ours[how]) >= FEWEST else None)
    columns = ("task", "algorithm", "runs", "mean", "best published", "± over seeds", "seeds", "source")
    columns_of_both = ("kind of return: ours; theirs", "difference")
    return Table(
        "published",
        "Against the best published numbers",
        (*columns, *columns_of_both, *TESTED),
        _append_tests(rows, tests),
    )


def _append_tests(rows: Sequence[tuple[Cell, ...]], tests: Sequence[Estimate | None]) -> tuple[tuple[Cell, ...], ...]:
    """Append to each row the interval and the p-values of its test, if there is one."""
    p_values = [None if test is None else test.p_value() for test in tests]
    intervals = [_make_interval(test) if test else TOO_FEW for test in tests]
    ends = zip(intervals, p_values, holm(p_values), strict=True)
    return tuple((*row, *end) for row, end in zip(rows, ends, strict=True))


def _make_interval(test: Estimate) -> Interval:
    low, high = test.interval()
    return Interval(float(low), float(high))


@dataclass(frozen=True)
class Comparison:
    """The runs of two groups, on one task or, normalised, on all tasks that both have."""

    task: str
    groups: tuple[str, str]
    steps: int | None  # at which both are compared
    pairs: tuple[tuple[Floats, Floats], ...]  # for each task, the values of their runs (S,), (T,)

    def gain(self, statistic: Statistic) -> float:
        """Return the mean over the tasks of the differences."""
        return float(np.mean([statistic(one) - statistic(other) for one, other in self.pairs]))

    def has_enough_runs(self) -> bool:
        """Whether each group has enough runs for an interval."""
        return all(are_enough(side) for side in zip(*self.pairs, strict=True))

    def test(self, statistic: Statistic) -> Estimate | None:
        """Estimate the mean difference with its error, or return None if there are too few runs."""
        if not self.has_enough_runs():
            return None
        differences = [
            difference(estimate([one], statistic), estimate([other], statistic)) for one, other in self.pairs
        ]
        return combination([1 / len(self.pairs)] * len(self.pairs), differences)

    def leading_cells(self, statistic: Statistic) -> tuple[Cell, ...]:
        """Return the cells before those of the test."""
        runs = (sum(map(len, side)) for side in zip(*self.pairs, strict=True))
        return (self.task, *self.groups, *runs, self.steps, self.gain(statistic))

    def probability_cells(self) -> tuple[Cell, Cell]:
        """Return the probability that a run of the first group is above one of the other, and its interval."""
        found, low, high = mean_improvement([improvement_probability(one, other) for one, other in self.pairs])
        return found, Interval(low, high) if self.has_enough_runs() else TOO_FEW


def versus(
    tasks: Sequence[Sequence[Group]], named: Sequence[str], metric: str, statistic: Statistic, scales: dict[str, Scale]
) -> Table:
    """Compare the first named group with the others named, or with all groups if it is the only one.

    Raises `RunDirectoryError` for a name that no group has, or if the groups share no task.
    """
    first, *others = find_labels(tasks, named)
    found = [
        comparison
        for other in others
        for comparison in _append_aggregate(list(_compare_shared_tasks(tasks, first, other, metric)), scales)
    ]
    if not found:
        raise RunDirectoryError(f"--versus: no task has runs of both {first} and another of the groups")
    rows = _append_tests([one.leading_cells(statistic) for one in found], [one.test(statistic) for one in found])
    columns = (
        "task",
        "A",
        "B",
        "runs of A",
        "runs of B",
        "steps",
        "A less B",
        *TESTED,
        "P(A > B)",
        "95 % interval of P",
    )
    ends = tuple((*row, *one.probability_cells()) for row, one in zip(rows, found, strict=True))
    return Table("versus", "Group against group", columns, ends)


def find_labels(tasks: Sequence[Sequence[Group]], named: Sequence[str]) -> list[str]:
    """Find the labels that are meant, whatever spaces and quotes are in their lists, and then others to compare with.

    Raises `RunDirectoryError` for a name that no group has.
    """
    labels = {_squeeze(group.label): group.label for task in tasks for group in task}
    for name in named:
        if _squeeze(name) not in labels:
            every = [*labels.values()]
            hint = did_you_mean(name, every) or f"; there are: {', '.join(every)}"
            raise RunDirectoryError(f"--versus: no group is called '{name}'{hint}")
    chosen = [labels[_squeeze(name)] for name in named]
    return chosen if len(chosen) > 1 else [*chosen, *(label for label in labels.values() if label != chosen[0])]


def _squeeze(name: str) -> str:
    return re.sub(r"[\s'\"]", "", name)


def _compare_shared_tasks(tasks: Sequence[Sequence[Group]], one: str, other: str, metric: str) -> Iterator[Comparison]:
    """Yield a comparison for each task that both groups have, at the last step that both have reached."""
    for task in tasks:
        groups = {group.label: group for group in task}
        if {one, other} <= groups.keys():
            pair = groups[one], groups[other]
            step = min(common_step(group, metric) for group in pair)
            values = finals(pair[0], metric, step), finals(pair[1], metric, step)
            yield Comparison(task[0].task, (one, other), int(step), (values,))


def _append_aggregate(shared: list[Comparison], scales: dict[str, Scale]) -> list[Comparison]:
    """Append the comparison of normalised scores over all tasks, if there are several."""
    scaled = [(scales[one.task], one.pairs[0]) for one in shared if one.task in scales]
    if len(scaled) < 2:
        return shared
    pairs = tuple((scale(one), scale(other)) for scale, (one, other) in scaled)
    return [*shared, Comparison(f"{len(pairs)} tasks, normalised", shared[0].groups, None, pairs)]
