"""The two sentences that a report begins with: what was run, and what came out, no more than the runs support."""

from __future__ import annotations

from collections.abc import Sequence

from trpo_cli.columns import EVALUATION, RETURN
from trpo_cli.errors import counted, enumerated
from trpo_cli.report.groups import FEW, Group, are_few, distinguish, name_groups
from trpo_cli.report.measures import APART, count_unit, finals, latest, name_metric, series, shared_step
from trpo_cli.report.numbers import Interval, format_number, format_steps
from trpo_cli.run.progress import AT_RETURN
from trpo_cli.statistics import FEWEST, Floats, Statistic, are_enough, bounds


def describe(
    tasks: Sequence[Sequence[Group]], metric: str, statistic: Statistic, left_out: Sequence[Group] = ()
) -> str:
    """Return both sentences; groups that are `left_out` have no value of the metric."""
    outcome = (
        _describe_task(tasks[0], metric, statistic) if len(tasks) == 1 else _describe_tasks(tasks, metric, statistic)
    )
    return f"{_describe_runs(tasks, metric, left_out)} {outcome}"


def _describe_runs(tasks: Sequence[Sequence[Group]], metric: str, left_out: Sequence[Group]) -> str:
    groups = [group for task in tasks for group in task]
    names = [task[0].task for task in tasks]
    counts = sorted({len(group.runs) for group in groups})
    runs = counted(counts[0], "run") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} runs"
    each = "" if len(groups) == 1 else " each"
    steps = _span([record.steps for group in groups for record in group.runs])
    unit = "iterations" if count_unit(groups) == "iterations" else "environment steps"
    does = "compares" if len({group.label for group in groups}) > 1 else "shows"
    said = f"This report {does} {_name_all(groups)} on {_name_tasks(names)}, with {runs}{each} of {steps} {unit}"
    return f"{said}{_describe_left_out(left_out, names, metric)}."


def _describe_left_out(groups: Sequence[Group], names: Sequence[str], metric: str) -> str:
    """Name the groups that have no value of the metric, and their tasks unless these are the ones just named."""
    if not groups:
        return ""
    lacking = [*dict.fromkeys(group.task for group in groups)]
    on = "" if {*lacking} == {*names} else f" on {_name_tasks(lacking)}"
    have = "has" if len({group.label for group in groups}) == 1 else "have"
    return f", without {name_groups(groups)}{on}, which {have} no {name_metric(metric)}"


def _name_tasks(names: Sequence[str]) -> str:
    return enumerated(names) if len(names) <= FEW else counted(len(names), "task")


def _name_all(groups: Sequence[Group]) -> str:
    """Name groups, and if they are variants of one algorithm that are not all named, the few keys that vary."""
    named = name_groups(groups)
    if not named.endswith(f" variants of {groups[0].algo}"):
        return named
    varying = sorted({key for values in distinguish([run for group in groups for run in group.runs]) for key in values})
    return f"{named} that differ in {enumerated(varying)}" if len(varying) <= FEW else named


def _interval(values: Floats, statistic: Statistic) -> Interval:
    low, high = bounds([values], statistic)
    return Interval(float(low), float(high), extremes=not are_enough([values]))


def _rank(task: Sequence[Group], metric: str, statistic: Statistic) -> tuple[list[Group], list[Group]]:
    """Return the groups with the highest value at the step that all have reached, and others with enough runs whose
    intervals reach into theirs."""
    step = shared_step(task, metric)
    values = {group.label: finals(group, metric, step) for group in task}
    best = max(float(statistic(one)) for one in values.values())
    first = [group for group in task if float(statistic(values[group.label])) == best]
    lowest = _interval(values[first[0].label], statistic).low
    others = [group for group in _testable(task) if group not in first]
    return first, [group for group in others if _interval(values[group.label], statistic).high >= lowest]


def _testable(groups: Sequence[Group]) -> list[Group]:
    return [group for group in groups if len(group.runs) >= FEWEST]


def _end_apart(task: Sequence[Group], metric: str) -> bool:
    """Whether some runs went on where others ended."""
    ends = [series(run, metric)[0][-1] for group in task for run in group.runs]
    return bool(max(ends) > APART * min(ends))


def _describe_task(task: Sequence[Group], metric: str, statistic: Statistic, on: str = "") -> str:
    """Say which group is highest and, if there are enough runs, whether its interval is apart from all others."""
    if all(run.goal is not None for group in task for run in group.runs):
        return _describe_stops(task, on)
    first, near = _rank(task, metric, statistic)
    step = shared_step(task, metric)
    apart = _end_apart(task, metric)
    the = f"At {format_steps(step)} {count_unit(task)}, which all have reached, the" if apart else "The"
    what = f"{statistic.name.removeprefix('the ')} {name_metric(metric)}"
    value = _describe_value(first[0], metric, statistic, step)
    if len(task) == 1:
        return f"{the} {what}{'' if apart else ' at the end'} is {value}."
    if len(first) > 1:
        shared = _describe_value(first[0], metric, statistic, step, alone=False)
        who = "all" if len(first) == len(task) > FEW else name_groups(first)
        return f"{the} highest {what}{on}, {shared}, is shared by {who}."
    said = f"{the} highest {what}{on} is that of {first[0].label}, {value}"
    others = [group for group in task if group not in first]
    if first[0] not in _testable(task) or not _testable(others):
        return f"{said}; with fewer than {FEWEST} runs of a group, no difference is claimed."
    if near:
        return f"{said}, but the interval overlaps with that of {name_groups(near)}."
    return f"{said}, and its interval overlaps with no other{_except(task)}."


def _describe_value(group: Group, metric: str, statistic: Statistic, step: float, alone: bool = True) -> str:
    """A value with its interval and, beside a training return that lags, the evaluation."""
    values = finals(group, metric, step)
    interval = _interval(values, statistic)
    kind = "min to max" if interval.extremes else "95 % interval"
    beside = [f"{kind} {interval.ends()}"] if len(values) > 1 else []
    evaluations = latest(group, EVALUATION, metric, step) if metric == RETURN and alone else values[:0]
    if len(evaluations) == len(values):
        place = _interval(evaluations, statistic).place
        beside.append(f"evaluation {format_number(float(statistic(evaluations)), place)}")
    value = format_number(float(statistic(values)), interval.place)
    return f"{value} ({'; '.join(beside)})" if beside else value


def _describe_stops(task: Sequence[Group], on: str) -> str:
    """Say after how many steps `stop.at_return` ended the runs, which is what such runs are about."""
    goals = {format_number(run.goal) for group in task for run in group.runs if run.goal is not None}
    goal = f"{AT_RETURN}={goals.pop()}" if len(goals) == 1 else AT_RETURN
    if not are_few(task):
        every = [run.steps for group in task for run in group.runs]
        return f"All runs{on} ended at {goal}, after {_span(every)} {count_unit(task)}."
    parts = []
    for group in task:
        steps = [run.steps for run in group.runs]
        span = f" (min to max {_span(steps)})" if len({*steps}) > 1 else ""
        parts.append(f"{format_steps(sum(steps) / len(steps))}{span} with {group.label}")
    return f"All runs{on} ended at {goal}, and the {count_unit(task)} until then are on average {enumerated(parts)}."


def _span(steps: Sequence[int]) -> str:
    return " to ".join(dict.fromkeys(map(format_steps, (min(steps), max(steps)))))


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
    uneven = any(_end_apart(task, metric) for task in compared)
    the = (
        f"At the {count_unit(tasks[0]).removesuffix('s')} that all runs of a task have reached, the"
        if uneven
        else "The"
    )
    said = f"{the} highest {what} is that of {enumerated(parts)} of {len(compared)} tasks"
    aside = _except([group for task in compared for group in task])
    if not apart:
        return f"{said}; on none is its interval apart from all others{aside}."
    return f"{said}; its interval is apart from all others for {enumerated(apart)}{aside}."
