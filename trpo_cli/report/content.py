"""The content of a report in any format: sections of tables and figures, made from runs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from trpo_cli.columns import EVALUATION, EXACT_RETURN, RETURN
from trpo_cli.errors import RunDirectoryError, UserError, did_you_mean
from trpo_cli.report import lead, sections, tables
from trpo_cli.report.groups import Group, group_runs, mark_duplicates, select_finished
from trpo_cli.report.notices import list_notices
from trpo_cli.report.options import HEADLINE, Options
from trpo_cli.report.published import find_published
from trpo_cli.report.references import choose_thresholds, make_scales
from trpo_cli.report.runs import RunRecord
from trpo_cli.report.sections import Section
from trpo_cli.report.styles import Styles

GAMMA = "algo.gamma"
BRIEF = 5  # sections of a page that needs no contents list


@dataclass(frozen=True)
class Content:
    """The content of a report."""

    title: str
    lead: str
    notices: Sequence[str]
    sections: Sequence[Section]
    num_tasks: int

    def is_long(self) -> bool:
        """Whether a page of it needs a contents list."""
        return len(self.sections) > BRIEF


def make_content(found: Sequence[RunRecord], options: Options) -> Content:
    """Make the report of the runs that were found.

    Raises `RunDirectoryError` if no run can be drawn or an option names something that does not exist, `UserError` if
    options contradict each other.
    """
    if options.compare and options.metric not in (HEADLINE, RETURN):
        raise UserError(f"--compare: published numbers are returns; leave out --metric {options.metric}")
    records = mark_duplicates(found, options.by)
    is_chosen = options.metric != HEADLINE
    if not is_chosen:
        options = replace(options, metric=choose_headline(group_runs(select_readable(records), options.by)))
    if options.metric == EXACT_RETURN:
        records = separate_discounts(records)
    refuse_undrawable(records, options)
    drawn, left_out = split_drawable(group_runs(select_readable(records), options.by), options.metric)
    groups = [select_finished(group) for group in drawn]
    tasks = [list(task) for task in group_by_task(groups).values()]
    styles = Styles(groups)
    numbers = {group.task: find_published(group.task) if options.compare else [] for group in groups}
    labels = {id(record): group.label for group in drawn for record in group.runs}
    scaled = make_scales(tasks, numbers, options.metric)
    learned = choose_thresholds(tasks, options.thresholds, numbers, options.metric)
    return Content(
        options.title,
        lead.describe(tasks, options.metric, options.statistic, left_out),
        list_notices(records, drawn, groups, options.metric, is_chosen),
        [
            sections.show_results(tasks, options),
            sections.show_learning_curves(tasks, options, styles, numbers),
            *sections.show_human_scores(tasks, options, styles),
            *sections.compare_groups(tasks, options, scaled),
            *sections.compare_with_published(groups, numbers, options),
            *sections.aggregate_tasks(tasks, options, styles, scaled),
            *sections.show_stops(groups),
            Section("Sample efficiency", tables.efficiency(groups, options.metric, learned)),
            *sections.show_infos(tasks, options, styles),
            *sections.show_trust_region(tasks, styles),
            *sections.show_hyperparameters(groups),
            Section("Time", tables.speed(groups)),
            Section("Runs", tables.runs(records, labels)),
        ],
        len(tasks),
    )


def separate_discounts(records: Sequence[RunRecord]) -> list[RunRecord]:
    """Make a task of each discount, since discounted returns compare only at the same one."""
    discounts: dict[str, set[str]] = defaultdict(set)
    for record in records:
        discounts[record.task].add(str(record.settings.get(GAMMA)))
    return [
        replace(record, task=f"{record.task}, \N{GREEK SMALL LETTER GAMMA} = {record.settings.get(GAMMA)}")
        if len(discounts[record.task]) > 1 and GAMMA in record.settings
        else record
        for record in records
    ]


def choose_headline(groups: Sequence[Group]) -> str:
    """Choose the most common headline of the runs, or evaluations if these alone compare all groups.

    Different headlines measure different things, so a report compares only runs with the same one. No run of a group
    may have a training return, if none has ended an episode.
    """
    records = [record for group in groups for record in group.runs]
    telling = [record for record in records if record.has(record.headline)]
    if not records:
        return RETURN
    chosen = Counter(record.headline for record in telling or records).most_common(1)[0][0]
    lacking = [group for group in groups if not any(record.has(record.headline) for record in group.runs)]
    evaluated = [any(record.has(EVALUATION) for record in group.runs) for group in groups]
    return EVALUATION if lacking and (all(evaluated) or (any(evaluated) and not telling)) else chosen


def select_readable(records: Sequence[RunRecord]) -> list[RunRecord]:
    """Select the runs that have rows and count."""
    return [record for record in records if record.rows and record.status not in ("broken", "duplicate")]


def split_drawable(groups: Sequence[Group], metric: str) -> tuple[list[Group], list[Group]]:
    """Return the groups with their runs that have the metric, and the groups in which no run has it."""
    having = [replace(group, runs=tuple(run for run in group.runs if run.has(metric))) for group in groups]
    left_out = [group for group, some in zip(groups, having, strict=True) if not some.runs]
    return [group for group in having if group.runs], left_out


def refuse_undrawable(records: Sequence[RunRecord], options: Options) -> None:
    """Raise `RunDirectoryError` if no run has the metric."""
    readable = select_readable(records)
    known = {name for record in readable for name in record.rows}
    if readable and known and options.metric not in known:
        hint = did_you_mean(options.metric, known) or f"; there are: {', '.join(sorted(known))}"
        raise RunDirectoryError(f"--metric: metrics.csv has no column '{options.metric}'{hint}")
    if not any(record.has(options.metric) for record in readable):
        said = [f"{record.where()}: {record.status}; {record.note}" for record in records]
        more = [f"and {len(said) - 5} more"] if len(said) > 5 else []
        hint = "; --metric names another column" if readable else ""
        raise RunDirectoryError("\n".join([f"no run has a {options.metric} to draw{hint}", *said[:5], *more]))


def group_by_task(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Return the groups of each task."""
    tasks: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        tasks[group.task].append(group)
    return tasks
