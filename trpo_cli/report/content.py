"""What a report says: sections of tables and figures, made of runs, for every kind of file alike."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from trpo_cli.errors import RunDirectoryError, UserError, nearest
from trpo_cli.report import figures, tables
from trpo_cli.report.figures import Panel, Styles
from trpo_cli.report.groups import Group, finished, grouped, natural, without_duplicates
from trpo_cli.report.measures import DIAGNOSTICS, default_threshold, diagnostics, finals, untrained
from trpo_cli.report.notices import many, notices
from trpo_cli.report.published import Published, published
from trpo_cli.report.runs import EVALUATION, STEPS, RunRecord
from trpo_cli.report.tables import Table, shown
from trpo_cli.state import RETURN
from trpo_cli.statistics import Floats

MEASURE = {"mean": "the mean", "iqm": "the interquartile mean"}
EVERY_TASK = ""


@dataclass(frozen=True)
class Options:
    """What a report is asked to show."""

    metric: str = RETURN  # a column of metrics.csv
    against: Sequence[str] = (STEPS,)  # of `measures.AGAINST`, a panel each
    by: Sequence[str] = ()  # keys that runs of one group agree in; by default all but the seed
    statistic: str = "mean"  # over the runs of a group; or iqm
    smooth: int = 1  # rows that curves are averaged over
    thresholds: dict[str, float] = field(default_factory=dict)  # task -> return that counts as learned; or EVERY_TASK
    compare: bool = False  # with published numbers
    title: str = "Learning curves and results"


@dataclass(frozen=True)
class Section:
    """A table, or a figure of panels in so many columns that goes into the files called `figure`; or both."""

    title: str
    table: Table | None = None
    panels: Sequence[Panel] = ()
    columns: int = 1
    figure: str = ""
    caption: str = ""


@dataclass(frozen=True)
class Content:
    """A report."""

    title: str
    lead: str
    notices: Sequence[str]
    sections: Sequence[Section]


def content(found: Sequence[RunRecord], options: Options) -> Content:
    """The report of the runs that were found.

    Raises `RunDirectoryError` if none can be drawn or an option names what is not there, `UserError` if options
    contradict each other.
    """
    if options.compare and options.metric != RETURN:
        raise UserError(f"--compare: published numbers are returns; leave out --metric {options.metric}")
    records = without_duplicates(found, options.by)
    options = measurable(records, options)
    drawn = grouped(drawable(records, options), options.by)
    groups = [finished(group) for group in drawn]
    tasks = [list(task) for task in by_task(groups).values()]
    styles = Styles(sorted({group.label for group in groups}, key=natural))
    numbers = {group.task: published(group.task) if options.compare else [] for group in groups}
    labels = {id(record): group.label for group in drawn for record in group.runs}
    sections = [
        Section("Final and best", tables.results(groups, options.metric, options.statistic), caption=RESULTS),
        learning_curves(tasks, options, styles, numbers),
        *compared(groups, numbers, options),
        *across_tasks(tasks, options, styles, numbers),
        Section("Sample efficiency", tables.efficiency(groups, options.metric, thresholds(tasks, options, numbers))),
        Section("Time", tables.speed(groups)),
        *inside_the_trust_region(tasks, styles),
        Section("Runs", tables.runs(records, labels)),
    ]
    return Content(
        options.title,
        lead(records, groups, options),
        notices(records, drawn, groups, options.metric),
        sections,
    )


RESULTS = (
    "Numbers are taken at the step that all runs of a row have reached. Training return: sampled actions, the last 100 "
    "episodes; evaluation: the likeliest actions, the last one by then."
)


def measurable(records: Sequence[RunRecord], options: Options) -> Options:
    """The options; evaluations are drawn where no run has ended an episode while it sampled."""
    without = options.metric == RETURN and not any(record.has(RETURN) for record in records)
    return replace(options, metric=EVALUATION) if without and any(r.has(EVALUATION) for r in records) else options


def drawable(records: Sequence[RunRecord], options: Options) -> list[RunRecord]:
    """The runs that have something to show. Raises `RunDirectoryError` if none has."""
    readable = [record for record in records if record.rows and record.status not in ("broken", "duplicate")]
    known = {name for record in readable for name in record.rows}
    if readable and known and options.metric not in known:
        hint = nearest(options.metric, known) or f"; there are: {', '.join(sorted(known))}"
        raise RunDirectoryError(f"--metric: metrics.csv has no column '{options.metric}'{hint}")
    chosen = [record for record in readable if record.has(options.metric)]
    if not chosen:
        told = [f"{record.where()}: {record.status}; {record.note}" for record in records]
        more = [f"and {len(told) - 5} more"] if len(told) > 5 else []
        hint = "; --metric names another column" if readable else ""
        raise RunDirectoryError("\n".join([f"no run has a {options.metric} to draw{hint}", *told[:5], *more]))
    return chosen


def by_task(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """task -> its groups."""
    tasks: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        tasks[group.task].append(group)
    return tasks


def learning_curves(
    tasks: Sequence[Sequence[Group]], options: Options, styles: Styles, numbers: dict[str, list[Published]]
) -> Section:
    """A panel for each task and axis."""
    panels = [
        figures.curves(task, axis, options.metric, options.statistic, options.smooth, styles, numbers[task[0].task])
        for task in tasks
        for axis in options.against
    ]
    smoothed = f"smoothed: each point is the mean of {options.smooth} rows" if options.smooth > 1 else "not smoothed"
    caption = f"{MEASURE[options.statistic].capitalize()} over the runs and its 95 % bootstrap interval, {smoothed}."
    if options.compare:
        caption += (
            " Diamonds: published numbers, at their steps; those of more steps than are shown are in the table only."
        )
    columns = len(options.against) if len(options.against) > 1 else figures.square(len(panels))
    return Section("Learning curves", None, panels, columns, "learning_curves", caption)


def compared(groups: Sequence[Group], numbers: dict[str, list[Published]], options: Options) -> list[Section]:
    """Our numbers and the published ones, if they are asked for."""
    if not options.compare:
        return []
    caption = (
        "Numbers are what each source measured, on the version of the task that it names: see the column 'measured' "
        "before comparing."
    )
    return [
        Section(
            "Beside published numbers",
            tables.comparison(groups, numbers, options.metric, options.statistic),
            caption=caption,
        )
    ]


def across_tasks(
    tasks: Sequence[Sequence[Group]], options: Options, styles: Styles, numbers: dict[str, list[Published]]
) -> list[Section]:
    """Normalised scores of all tasks together, as a table and as profiles."""
    strata: dict[str, dict[str, Floats]] = defaultdict(dict)
    scales = []
    for task in tasks:
        low = untrained(task, options.metric)
        best = max((number.value for number in numbers[task[0].task]), default=None)
        high = max(float(finals(group, options.metric).max()) for group in task) if best is None else best
        if high <= low:
            continue
        scales.append(
            f"{task[0].task} {shown(low)} to {shown(high)} ({'best run' if best is None else 'best published'})"
        )
        for group in task:
            strata[group.label][group.task] = (finals(group, options.metric) - low) / (high - low)
    if not strata:
        return []
    ordered = {label: strata[label] for label in styles.labels if label in strata}
    caption = (
        f"Final values, normalised so that the mean of the first rows is 0 and the best is 1: {'; '.join(scales)}. "
        "Intervals: 95 %, bootstrap stratified by task."
    )
    table, panel = tables.aggregate(ordered, options.statistic), figures.profiles(ordered, styles)
    return [Section("All tasks together", table, [panel], 1, "profiles", caption)]


def thresholds(
    tasks: Sequence[Sequence[Group]], options: Options, numbers: dict[str, list[Published]]
) -> dict[str, tuple[float, str]]:
    """task -> the threshold, and where it is from. Raises `RunDirectoryError` for a task that no run is of."""
    names = [task[0].task for task in tasks]
    for name in options.thresholds:
        if name != EVERY_TASK and name not in names:
            hint = nearest(name, names) or f"; there are: {', '.join(names)}"
            raise RunDirectoryError(f"--threshold: no run is of the task '{name}'{hint}")
    found = {}
    for task, name in zip(tasks, names, strict=True):
        best = max(numbers[name], key=lambda number: number.value, default=None)
        given = options.thresholds.get(name, options.thresholds.get(EVERY_TASK))
        if given is not None:
            found[name] = given, "given"
        elif best is not None:
            found[name] = best.value, f"the best published: {best.algo} of {best.source}"
        else:
            found[name] = default_threshold(task, options.metric), "90 % of the way to the best group's final"
    return found


def inside_the_trust_region(tasks: Sequence[Sequence[Group]], styles: Styles) -> list[Section]:
    """Diagnostics of the runs that have them."""
    panels, telling = [], []
    for task in tasks:
        told = {name: [g for g in task if all(name in diagnostics(r) for r in g.runs)] for name in DIAGNOSTICS}
        panels += [figures.trust_region(groups, name, styles) for name, groups in told.items() if groups]
        telling += [group for group in task if any(diagnostics(record) for record in group.runs)]
    if not panels:
        return []
    caption = (
        f"Means over at most {figures.STRETCHES} equal stretches of the steps, then over the runs. A KL / δ of 1 is "
        f"the border of the trust region; where only some exceed {figures.CEILING}, the axis ends there and names them."
    )
    return [Section("Trust region", tables.trust_region(telling), panels, 4, "diagnostics", caption)]


def lead(records: Sequence[RunRecord], groups: Sequence[Group], options: Options) -> str:
    """What was compared, in a sentence or two."""
    counts = Counter(record.status for record in records)
    states = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    averaged = sum(len(group.runs) for group in groups)
    how = f"by {', '.join(options.by)}" if options.by else "by algorithm and the settings that differ"
    return (
        f"{many(len(records), 'run')} ({states}); {averaged} of them, in {many(len(groups), 'group')} {how}, make "
        f"{MEASURE[options.statistic]} over the runs of a group."
    )
