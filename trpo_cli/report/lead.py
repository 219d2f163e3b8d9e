"""The two sentences that a report begins with: what was run, and what came out, no more than the runs support."""

from __future__ import annotations

from collections.abc import Sequence

from trpo_cli.errors import counted
from trpo_cli.report.groups import Group
from trpo_cli.report.measures import common_step, count_unit, finals, name_metric
from trpo_cli.report.numbers import Interval, format_number, format_steps
from trpo_cli.statistics import FEWEST, Statistic, are_enough, bounds

FEW = 4  # names in a sentence


def describe(tasks: Sequence[Sequence[Group]], metric: str, statistic: Statistic) -> str:
    """Return both sentences."""
    groups = [group for task in tasks for group in task]
    outcome = (
        _describe_task(tasks[0], metric, statistic) if len(tasks) == 1 else _describe_tasks(tasks, metric, statistic)
    )
    return f"{_describe_runs(tasks, groups, metric)} {outcome}"


def _describe_runs(tasks: Sequence[Sequence[Group]], groups: Sequence[Group], metric: str) -> str:
    labels = list(dict.fromkeys(group.label for group in groups))
    who = join(labels) if len(labels) <= FEW else f"{len(labels)} groups of runs"
    names = [task[0].task for task in tasks]
    where = join(names) if len(names) <= FEW else counted(len(names), "task")
    counts = sorted({len(group.runs) for group in groups})
    runs = counted(counts[0], "run") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} runs"
    each = "" if len(groups) == 1 else " each"
    steps = sorted(common_step(group, metric) for group in groups)
    ends = list(dict.fromkeys(map(format_steps, (steps[0], steps[-1]))))
    unit = "iterations" if count_unit(groups) == "iterations" else "environment steps"
    does = "compares" if len(labels) > 1 else "shows"
    return f"This report {does} {who} on {where}, with {runs}{each} of {' to '.join(ends)} {unit}."


def join(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def _interval(group: Group, metric: str, statistic: Statistic) -> Interval:
    values = finals(group, metric)
    low, high = bounds([values], statistic)
    return Interval(float(low), float(high), extremes=not are_enough([values]))


def _rank(task: Sequence[Group], metric: str, statistic: Statistic) -> tuple[list[Group], list[Group]]:
    """Return the groups with the highest value, and others with enough runs whose intervals reach into theirs."""
    values = {group.label: float(statistic(finals(group, metric))) for group in task}
    best = max(values.values())
    first = [group for group in task if values[group.label] == best]
    lowest = _interval(first[0], metric, statistic).low
    return first, [g for g in _testable(task) if g not in first and _interval(g, metric, statistic).high >= lowest]


def _testable(groups: Sequence[Group]) -> list[Group]:
    return [group for group in groups if len(group.runs) >= FEWEST]


def _describe_task(task: Sequence[Group], metric: str, statistic: Statistic, on: str = "") -> str:
    """Say which group is highest and, if there are enough runs, whether its interval is apart from all others."""
    first, near = _rank(task, metric, statistic)
    what = f"{statistic.name.removeprefix('the ')} {name_metric(metric)}"
    interval = _interval(first[0], metric, statistic)
    value = format_number(float(statistic(finals(first[0], metric))), interval.place)
    kind = "min to max" if interval.extremes else "95 % interval"
    span = f" ({kind} {interval.ends()})" if len(first[0].runs) > 1 else ""
    if len(task) == 1:
        return f"The {what} at the end is {value}{span}."
    if len(first) > 1:
        return f"The highest {what}{on}, {value}{span}, is shared by {join([group.label for group in first])}."
    said = f"The highest {what}{on} is that of {first[0].label}, {value}{span}"
    others = [group for group in task if group not in first]
    if first[0] not in _testable(task) or not _testable(others):
        return f"{said}; with fewer than {FEWEST} runs of a group, no difference is claimed."
    if near:
        return f"{said}, but the interval overlaps with that of {join([group.label for group in near])}."
    return f"{said}, and its interval overlaps with no other{_except(task)}."


def _except(groups: Sequence[Group]) -> str:
    """Except groups that have too few runs for an interval."""
    return "" if len(_testable(groups)) == len(groups) else f", groups of fewer than {FEWEST} runs aside"


def _describe_tasks(tasks: Sequence[Sequence[Group]], metric: str, statistic: Statistic) -> str:
    """Count the tasks on which each group is highest, and name those on which its interval is apart from the others."""
    wins: dict[str, int] = {}
    ties, apart = 0, []
    compared = [task for task in tasks if len(task) > 1]
    for task in compared:
        first, near = _rank(task, metric, statistic)
        if len(first) > 1:
            ties += 1
            continue
        wins[first[0].label] = wins.get(first[0].label, 0) + 1
        if not near and first[0] in _testable(task) and len(_testable(task)) > 1:
            apart.append(f"{first[0].label} on {task[0].task}")
    what = f"{statistic.name.removeprefix('the ')} {name_metric(metric)}"
    if len(compared) == 1:
        return _describe_task(compared[0], metric, statistic, f" on {compared[0][0].task}")
    if not compared:
        return f"No two groups share a task, so nothing is compared; the table has the {what} of each."
    ordered = sorted(wins.items(), key=lambda pair: -pair[1])[:FEW]
    parts = [f"{label} on {count}" for label, count in ordered] + ([f"several together on {ties}"] if ties else [])
    said = f"The highest {what} is that of {join(parts)} of {len(compared)} tasks"
    aside = _except([group for task in compared for group in task])
    if not apart:
        return f"{said}; on none is its interval apart from all others{aside}."
    return f"{said}; its interval is apart from all others for {join(apart)}{aside}."
