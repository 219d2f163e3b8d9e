"""The content of a report in any format: sections of tables and figures, made from runs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from trpo_cli.errors import RunDirectoryError, UserError, counted, did_you_mean
from trpo_cli.report import comparisons, figures, tables
from trpo_cli.report.diagnostics import DIAGNOSTICS, compute_diagnostics
from trpo_cli.report.figures import Panel, Styles
from trpo_cli.report.groups import Group, group_runs, mark_duplicates, natural_key, select_finished
from trpo_cli.report.measures import finals
from trpo_cli.report.notices import list_notices
from trpo_cli.report.published import Published, find_published
from trpo_cli.report.references import Scale, choose_thresholds, make_scales
from trpo_cli.report.runs import EVALUATION, STEPS, RunRecord
from trpo_cli.report.tables import Table, format_cell
from trpo_cli.run.state import RETURN
from trpo_cli.statistics import FEWEST, IQM, MEAN, Floats, Statistic

HEADLINE = "headline"  # in place of a column


@dataclass(frozen=True)
class Options:
    """The options of a report."""

    metric: str = HEADLINE  # or a column of metrics.csv
    against: Sequence[str] = (STEPS,)  # some of `measures.AGAINST`, one panel each
    by: Sequence[str] = ()  # keys in which the runs of a group agree; by default all but the seed
    statistic: Statistic = MEAN  # over the runs of a group
    smooth: int = 1  # rows over which curves are averaged
    thresholds: dict[str, list[float]] = field(
        default_factory=dict
    )  # task or EVERY_TASK -> returns that count as learned
    compare: bool = False  # with published numbers
    versus: Sequence[
        str
    ] = ()  # labels of groups: the first is compared with the others, or with all if it is the only one
    title: str = "Learning curves and results"


@dataclass(frozen=True)
class Section:
    """A table, a figure, or both. The figure has panels in `columns` columns, and `figure` is the stem of its files."""

    title: str
    table: Table | None = None
    panels: Sequence[Panel] = ()
    columns: int = 1
    figure: str = ""
    caption: str = ""


@dataclass(frozen=True)
class Content:
    """The content of a report."""

    title: str
    lead: str
    notices: Sequence[str]
    sections: Sequence[Section]


def make_content(found: Sequence[RunRecord], options: Options) -> Content:
    """Make the report of the runs that were found.

    Raises `RunDirectoryError` if no run can be drawn or an option names something that does not exist, `UserError` if
    options contradict each other.
    """
    if options.compare and options.metric not in (HEADLINE, RETURN):
        raise UserError(f"--compare: published numbers are returns; leave out --metric {options.metric}")
    records = mark_duplicates(found, options.by)
    if options.metric == HEADLINE:
        options = replace(options, metric=choose_headline(records))
    drawn = group_runs(select_drawable(records, options), options.by)
    groups = [select_finished(group) for group in drawn]
    tasks = [list(task) for task in group_by_task(groups).values()]
    styles = Styles(sorted({group.label for group in groups}, key=natural_key))
    numbers = {group.task: find_published(group.task) if options.compare else [] for group in groups}
    labels = {id(record): group.label for group in drawn for record in group.runs}
    scaled = make_scales(tasks, numbers, options.metric)
    learned = choose_thresholds(tasks, options.thresholds, numbers, options.metric)
    sections = [
        Section(
            "Final and best",
            tables.results(groups, options.metric, options.statistic),
            caption=describe_headline(groups, options),
        ),
        show_learning_curves(tasks, options, styles, numbers),
        *compare_with_published(groups, numbers, options),
        *compare_groups(tasks, options, scaled),
        *aggregate_tasks(tasks, options, styles, scaled),
        *show_infos(groups, options),
        Section("Sample efficiency", tables.efficiency(groups, options.metric, learned)),
        Section("Time", tables.speed(groups)),
        *show_trust_region(tasks, styles),
        Section("Runs", tables.runs(records, labels)),
    ]
    return Content(
        options.title,
        describe_runs(records, groups, options),
        list_notices(records, drawn, groups, options.metric),
        sections,
    )


def describe_headline(groups: Sequence[Group], options: Options) -> str:
    """Describe the return in the first table, the other returns there, and the intervals."""
    first, *beside = (f"the {named} ({how})" for named, how in tables.describe_returns(groups, options.metric))
    told = f"; beside it: {' and '.join(beside)}" if beside else ""
    return (
        f"The headline is {first}{told}. Numbers are taken at the step that all runs of a row have reached. "
        f"{describe_interval(options.statistic)}"
    )


def describe_interval(statistic: Statistic) -> str:
    """Describe an interval over runs."""
    how = "Tukey and McLaughlin's, of a trimmed mean" if statistic is IQM else "Student's t"
    return (
        f"The 95 % interval is {how}: right where runs vary normally, too narrow where they are very skewed; of fewer "
        f"than {FEWEST} runs, min to max stands in its place."
    )


def choose_headline(records: Sequence[RunRecord]) -> str:
    """Choose the most common headline of the runs, or evaluations if no run has ended an episode in training.

    Different headlines measure different things, so a report compares only runs with the same one.
    """
    telling = [record for record in records if record.has(record.headline)]
    if not telling and any(record.has(EVALUATION) for record in records):
        return EVALUATION
    return Counter(record.headline for record in telling or records).most_common(1)[0][0]


def select_drawable(records: Sequence[RunRecord], options: Options) -> list[RunRecord]:
    """Select the runs that have the metric. Raises `RunDirectoryError` if there are none."""
    readable = [record for record in records if record.rows and record.status not in ("broken", "duplicate")]
    known = {name for record in readable for name in record.rows}
    if readable and known and options.metric not in known:
        hint = did_you_mean(options.metric, known) or f"; there are: {', '.join(sorted(known))}"
        raise RunDirectoryError(f"--metric: metrics.csv has no column '{options.metric}'{hint}")
    chosen = [record for record in readable if record.has(options.metric)]
    if not chosen:
        told = [f"{record.where()}: {record.status}; {record.note}" for record in records]
        more = [f"and {len(told) - 5} more"] if len(told) > 5 else []
        hint = "; --metric names another column" if readable else ""
        raise RunDirectoryError("\n".join([f"no run has a {options.metric} to draw{hint}", *told[:5], *more]))
    return chosen


def group_by_task(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Return the groups of each task."""
    tasks: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        tasks[group.task].append(group)
    return tasks


def show_learning_curves(
    tasks: Sequence[Sequence[Group]], options: Options, styles: Styles, numbers: dict[str, list[Published]]
) -> Section:
    """Draw a panel for each task and axis."""
    panels = [
        figures.curves(task, axis, options.metric, options.statistic, options.smooth, styles, numbers[task[0].task])
        for task in tasks
        for axis in options.against
    ]
    smoothed = f"smoothed: each point is the mean of {options.smooth} rows" if options.smooth > 1 else "not smoothed"
    caption = (
        f"{options.statistic.name.capitalize()} over the runs, {smoothed}, and at each point its 95 % interval; of "
        f"fewer than {FEWEST} runs, min to max."
    )
    if options.compare:
        caption += (
            " Diamonds: published numbers, at their steps, hollow where they are of a single run; those of more steps "
            "than are shown are in the table only."
        )
    columns = len(options.against) if len(options.against) > 1 else figures.choose_columns(len(panels))
    return Section("Learning curves", None, panels, columns, "learning_curves", caption)


def compare_with_published(
    groups: Sequence[Group], numbers: dict[str, list[Published]], options: Options
) -> list[Section]:
    """Compare these runs with published numbers, if `--compare` is given."""
    if not options.compare:
        return []
    beside = (
        "Numbers are what each source measured, on the version of the task that it names: see the column 'measured' "
        "before comparing."
    )
    table = comparisons.published(groups, numbers, options.metric)
    against = (
        "The mean of each group, against the highest published number of the same algorithm, of as many steps, that "
        "several seeds stand behind. Welch's test; where no deviation was published, as if that number were exact. "
        f"{HOLM}"
    )
    return [
        Section(
            "Beside published numbers",
            comparisons.comparison(groups, numbers, options.metric, options.statistic),
            caption=beside,
        ),
        *([Section(table.title, table, caption=against)] if table.rows else []),
    ]


HOLM = (
    "p (Holm) is corrected for the number of tests in the table: below 0.05 of it, a difference is decided. Groups of "
    f"fewer than {FEWEST} runs are not tested."
)


def compare_groups(tasks: Sequence[Sequence[Group]], options: Options, scaled: dict[str, Scale]) -> list[Section]:
    """Compare the groups of `--versus` with each other."""
    if not options.versus:
        return []
    table = comparisons.versus(tasks, options.versus, options.metric, options.statistic, scaled)
    what = tables.RETURNS.get(options.metric, (options.metric,))[0]
    test = "Yuen's test of trimmed means" if options.statistic is IQM else "Welch's test"
    caption = (
        f"The {what} of A less that of B, at the step that all runs of both have reached: {test}. P(A > B): how likely "
        "a run of A is above one of B, ties counted half, with Newcombe's interval. All tasks together: the mean over "
        f"them, of normalised values, where a group has {FEWEST} runs in all and two of each task. {HOLM}"
    )
    return [Section(table.title, table, caption=caption)]


def aggregate_tasks(
    tasks: Sequence[Sequence[Group]], options: Options, styles: Styles, scaled: dict[str, Scale]
) -> list[Section]:
    """Show normalised scores of all tasks together, as a table and as profiles."""
    strata: dict[str, dict[str, Floats]] = defaultdict(dict)
    for group in (group for task in tasks for group in task if group.task in scaled):
        strata[group.label][group.task] = scaled[group.task](finals(group, options.metric))
    if not strata:
        return []
    ordered = {label: strata[label] for label in styles.labels if label in strata}
    told = "; ".join(
        f"{task} {format_cell(of.low)} to {format_cell(of.high)} ({of.origin})" for task, of in scaled.items()
    )
    caption = (
        f"Final values, normalised so that the mean of the first rows is 0 and the best is 1: {told}. Intervals of the "
        f"table: as above, with each task's own variance, of {FEWEST} runs in all and two of each task. Bands of the "
        f"profile: 95 %, Clopper and Pearson's, at each score; none below {FEWEST} runs."
    )
    table, panel = tables.aggregate(ordered, options.statistic), figures.profiles(ordered, styles)
    return [Section("All tasks together", table, [panel], 1, "profiles", caption)]


def show_infos(groups: Sequence[Group], options: Options) -> list[Section]:
    """Show the numbers that runs took from infos, if they did."""
    table = tables.infos(groups, options.metric, options.statistic)
    caption = (
        "Means over episodes, at the step that all runs of a row have reached; in training, over the last 100 episodes."
    )
    return [Section(table.title, table, caption=caption)] if table.rows else []


def show_trust_region(tasks: Sequence[Sequence[Group]], styles: Styles) -> list[Section]:
    """Show the diagnostics of runs that have some."""
    panels, telling = [], []
    for task in tasks:
        told = {name: [g for g in task if all(name in compute_diagnostics(r) for r in g.runs)] for name in DIAGNOSTICS}
        panels += [figures.trust_region(groups, name, styles) for name, groups in told.items() if groups]
        telling += [group for group in task if any(compute_diagnostics(record) for record in group.runs)]
    if not panels:
        return []
    caption = (
        f"Means over at most {figures.STRETCHES} equal stretches of the steps, then over the runs. A KL / δ of 1 is "
        "the border of the trust region: of the mean KL, or of the largest if that is what δ bounds; where δ bounds no "
        f"KL, there is none. Where only some exceed {figures.CEILING}, the axis ends there and names them. The curves "
        "of archived runs are made of the rows that were kept."
    )
    return [Section("Trust region", tables.trust_region(telling), panels, 4, "diagnostics", caption)]


def describe_runs(records: Sequence[RunRecord], groups: Sequence[Group], options: Options) -> str:
    """Describe in a sentence which runs were compared."""
    counts = Counter(record.status for record in records)
    states = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    averaged, families = sum(len(group.runs) for group in groups), counted(len(groups), "group")
    how = f"by {', '.join(options.by)}" if options.by else "by algorithm and the settings that differ"
    return (
        f"{counted(len(records), 'run')} ({states}); {averaged} of them, in {families} {how}, make "
        f"{options.statistic.name} over the runs of a group."
    )
