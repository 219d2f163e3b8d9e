"""The sections of a report, each a table, a figure, or both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from trpo_cli.columns import EVALUATION, STEPS
from trpo_cli.errors import enumerated
from trpo_cli.report import comparisons, figures, human, hyperparameters, tables
from trpo_cli.report.diagnostics import DIAGNOSTICS, compute_diagnostics
from trpo_cli.report.figures import Figure, Panel, make_keys
from trpo_cli.report.groups import Group
from trpo_cli.report.measures import APART, common_step, finals, name_metric, shared_step
from trpo_cli.report.numbers import format_number
from trpo_cli.report.options import Options
from trpo_cli.report.published import Published, name_task
from trpo_cli.report.references import Scale
from trpo_cli.report.styles import Styles
from trpo_cli.report.table import Table
from trpo_cli.statistics import FEWEST, IQM, Floats, Statistic

LONG = 16  # rows of a table that the page folds, unless it is what was asked for
MANY = 12  # panels of a figure that the page folds
HOLM = (
    "p (Holm) is corrected for the number of tests in the table: below 0.05 of it, a difference is decided. Groups of "
    f"fewer than {FEWEST} runs are not tested."
)


@dataclass(frozen=True)
class Section:
    """A table, a figure, or both."""

    title: str
    table: Table | None = None
    figures: Sequence[Figure] = ()
    caption: str = ""
    folded: bool | None = None  # whether the page folds the table; by default a long one

    @property
    def anchor(self) -> str:
        """Its place on the page."""
        return self.title.lower().replace(" ", "-")

    def folds_table(self) -> bool:
        """Whether the page shows the table only when asked."""
        return self.table is not None and (len(self.table.rows) > LONG if self.folded is None else self.folded)

    def folds_figures(self) -> bool:
        """Whether the page shows the figures only when asked."""
        return self.count_panels() > MANY and self.table is not None

    def count_panels(self) -> int:
        """Return the number of panels of all figures."""
        return sum(len(figure.panels) for figure in self.figures)

    def grids(self) -> list[list[Panel]]:
        """Return the panels that the page puts side by side: those of a figure, or of figures of a panel each."""
        single = [figure.panels[0] for figure in self.figures]
        return [single] if len(single) == self.count_panels() else [[*figure.panels] for figure in self.figures]


def show_results(tasks: Sequence[Sequence[Group]], options: Options) -> Section:
    """Show the returns of every group."""
    groups = [group for task in tasks for group in task]
    returns = [f"{_begin(name_metric(name))}: {how}." for name, how in tables.describe_returns(groups, options.metric)]
    caption = f"{' '.join(returns)} All are taken at the step that all runs of a row have reached. "
    uneven = [
        task[0].task
        for task in tasks
        if max(common_step(group, options.metric) for group in task) > APART * shared_step(task, options.metric)
    ]
    if uneven:
        caption += f"The rows of {enumerated(uneven)} are of different steps, so they do not compare. "
    table = tables.results(groups, options.metric, options.statistic)
    return Section(table.title, table, caption=caption + describe_interval(options.statistic), folded=False)


def _begin(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def describe_interval(statistic: Statistic) -> str:
    """Describe an interval over runs."""
    how = "Tukey and McLaughlin's, of a trimmed mean" if statistic is IQM else "Student's t"
    return (
        f"The 95 % interval is {how}: right where runs vary normally, too narrow where they are very skewed; of fewer "
        f"than {FEWEST} runs, min to max stands in its place."
    )


def show_learning_curves(
    tasks: Sequence[Sequence[Group]], options: Options, styles: Styles, numbers: dict[str, list[Published]]
) -> Section:
    """Draw the metric of each task, and beside it the evaluations."""
    smoothed = f"smoothed: each point is the mean of {options.smooth} rows" if options.smooth > 1 else "not smoothed"
    caption = (
        f"{_begin(name_metric(options.metric))}: {options.statistic.name} over the runs, {smoothed}, and at each point "
        f"its 95 % interval; of fewer than {FEWEST} runs, min to max."
    )
    marked = (
        " Diamonds mark published numbers, at their steps; hollow ones are those of a single run. Those of more steps "
        "are in the table only."
        if options.compare
        else ""
    )
    drawn = [_draw_curves("learning_curves", tasks, options, styles, numbers)]
    evaluated = [[g for g in task if all(r.has(EVALUATION) for r in g.runs)] for task in tasks]
    if options.metric != EVALUATION and any(evaluated):
        caption += " Evaluations are returns of the most likely actions while training."
        evaluations = replace(options, metric=EVALUATION, smooth=1)
        drawn.append(_draw_curves("evaluations", [task for task in evaluated if task], evaluations, styles, {}))
    return Section("Learning curves", figures=drawn, caption=caption + marked)


def _draw_curves(
    name: str, tasks: Sequence[Sequence[Group]], options: Options, styles: Styles, numbers: dict[str, list[Published]]
) -> Figure:
    """Draw a panel for each task and axis."""
    shown = (options.metric, options.statistic, options.smooth, styles)
    panels = [
        figures.curves(task, axis, *shown, numbers.get(task[0].task, [])) for task in tasks for axis in options.against
    ]
    columns = len(options.against) if len(options.against) > 1 else figures.choose_columns(len(panels))
    return Figure(name, panels, columns, make_keys([group for task in tasks for group in task], styles))


def show_human_scores(tasks: Sequence[Sequence[Group]], options: Options, styles: Styles) -> list[Section]:
    """Show how far Atari games are played between a random and a human player, per game and over several games."""
    games = human.select_games(tasks)
    if not games or options.metric not in human.SCORED:
        return []
    table = human.scores_by_game([group for game in games for group in game], options.metric, options.statistic)
    caption = (
        "Returns in percent of the way from a random player (0 %) to a professional human tester (100 %), at the step "
        "that all runs of a row have reached. The last two columns are what these players score in a game without "
        "sticky actions, with up to 30 no-ops at the start and at most 108,000 frames."
    )
    altered = _name_altered([group for task in tasks for group in task if human.find_players(group.task)])
    found = [Section(table.title, table, caption=caption + altered)]
    if len({name_task(game[0].task) for game in games}) > 1:
        over = human.scores_over_games(games, styles.labels, options.metric)
        caption = (
            f"The {name_metric(options.metric)} of all games at the last step that all runs of a game have reached. "
            "Intervals are over runs, each game with its own variance. The median is that of the games' means, without "
            "an interval."
        )
        found.append(Section(over.title, over, caption=caption, folded=False))
    return found


def _name_altered(groups: Sequence[Group]) -> str:
    """Say which groups do not compare with what others have measured on their task, if there are some."""
    altered = [f"{group.task} {group.label} ({', '.join(group.alterations)})" for group in groups if group.alterations]
    return f" Runs that make another task of it are left out: {'; '.join(altered)}." if altered else ""


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
    if any(human.find_players(task) for task in numbers):
        beside += " Steps are those of an agent: in Atari, each source's are of four frames."
    beside += _name_altered(groups)
    against = (
        "The mean of each group, against the highest published number of the same algorithm, of as many steps, that "
        "several seeds stand behind. Welch's test; where no deviation was published, as if that number were exact. "
        f"{HOLM}"
    )
    best = comparisons.published(groups, numbers, options.metric)
    every = comparisons.comparison(groups, numbers, options.metric, options.statistic)
    return [
        *([Section(best.title, best, caption=against, folded=False)] if best.rows else []),
        Section(every.title, every, caption=beside),
    ]


def compare_groups(tasks: Sequence[Sequence[Group]], options: Options, scaled: dict[str, Scale]) -> list[Section]:
    """Compare the groups of `--versus` with each other."""
    if not options.versus:
        return []
    table = comparisons.versus(tasks, options.versus, options.metric, options.statistic, scaled)
    test = "Yuen's test of trimmed means" if options.statistic is IQM else "Welch's test"
    caption = (
        f"The {name_metric(options.metric)} of A less that of B, at the step that all runs of both have reached: "
        f"{test}. A is above B: how likely a run of A is above one of B, ties counted half, with Newcombe's interval. "
        f"All tasks together: the mean over them, of normalised values, where a group has {FEWEST} runs in all and two "
        f"of each task. {HOLM}"
    )
    return [Section(table.title, table, caption=caption, folded=False)]


def aggregate_tasks(
    tasks: Sequence[Sequence[Group]], options: Options, styles: Styles, scaled: dict[str, Scale]
) -> list[Section]:
    """Show normalised scores of several tasks together, as a table and as profiles."""
    if len({task[0].runs[0].settings.get("env.id") for task in tasks}) < 2:  # one task, at any number of discounts
        return []
    strata: dict[str, dict[str, Floats]] = defaultdict(dict)
    for task in (task for task in tasks if task[0].task in scaled):
        step = shared_step(task, options.metric)
        for group in task:
            strata[group.label][group.task] = scaled[group.task](finals(group, options.metric, step))
    if not strata:
        return []
    ordered = {label: strata[label] for label in styles.labels if label in strata}
    ends = "; ".join(
        f"{task} {format_number(of.low)} to {format_number(of.high)} ({of.origin})" for task, of in scaled.items()
    )
    caption = (
        f"Values at the last step that all runs of a task have reached, normalised so that the mean of the first rows "
        f"is 0 and the best is 1: {ends}. Intervals of the table: as above, with each task's own variance, of {FEWEST} "
        "runs in all and two of each task. Bands of the profile: 95 %, Clopper and Pearson's, at each score; none "
        f"below {FEWEST} runs."
    )
    keys = [figures.Key(f"{label} ({sum(map(len, ordered[label].values()))})", styles(label)) for label in ordered]
    figure = Figure("profiles", [figures.profiles(ordered, styles)], 1, keys)
    return [Section("All tasks together", tables.aggregate(ordered, options.statistic), [figure], caption)]


def show_hyperparameters(groups: Sequence[Group]) -> list[Section]:
    """Show the settings that differ, and folded those that only some groups have or that all share."""
    differing, own, shared = hyperparameters.make_tables(groups)
    caption = "Settings that differ between the groups, and which of them have each value."
    only = "Settings that only some groups have."
    return [
        *([Section(differing.title, differing, caption=caption, folded=False)] if differing.rows else []),
        *([Section(own.title, own, caption=only, folded=True)] if own.rows else []),
        *([Section(shared.title, shared, folded=True)] if shared.rows else []),
    ]


def show_stops(groups: Sequence[Group]) -> list[Section]:
    """Show how long runs took that `stop.at_return` ended, if it ended any."""
    table = tables.stops(groups)
    return [Section(table.title, table)] if table.rows else []


def show_infos(tasks: Sequence[Sequence[Group]], options: Options, styles: Styles) -> list[Section]:
    """Show the numbers that runs took from infos, if they did."""
    groups = [group for task in tasks for group in task]
    table = tables.infos(groups, options.metric, options.statistic)
    having = [
        (column, [group for group in task if all(record.has(column) for record in group.runs)])
        for task in tasks
        for column in tables.list_infos(task)
    ]
    panels = [
        figures.curves(some, STEPS, column, options.statistic, options.smooth, styles)
        for column, some in having
        if some
    ]
    if not panels:
        return []
    caption = (
        "Means over episodes, at the step that all runs of a row have reached; in training, over the last 100 episodes."
    )
    figure = Figure("infos", panels, figures.choose_columns(len(panels)), make_keys(groups, styles))
    return [Section(table.title, table, [figure], caption)]


def show_trust_region(tasks: Sequence[Sequence[Group]], styles: Styles) -> list[Section]:
    """Show the diagnostics of runs that have some."""
    panels, having = [], []
    for task in tasks:
        found = {name: [g for g in task if all(name in compute_diagnostics(r) for r in g.runs)] for name in DIAGNOSTICS}
        panels += [figures.trust_region(groups, name, styles) for name, groups in found.items() if groups]
        having += [group for group in task if any(compute_diagnostics(record) for record in group.runs)]
    if not panels:
        return []
    caption = (
        f"Means over at most {figures.STRETCHES} equal stretches of the steps, then over the runs. A KL / δ of 1 is "
        "the border of the trust region: of the mean KL, or of the largest if that is what δ bounds; where δ bounds no "
        f"KL, there is none. Where only some exceed {figures.CEILING}, the axis ends there and names them. The curves "
        "of archived runs are made of the rows that were kept."
    )
    names = {group.label for group in having}
    keys = [figures.Key(label, styles(label)) for label in styles.labels if label in names]
    figure = Figure("diagnostics", panels, 4, keys)
    return [Section("Trust region", tables.trust_region(having), [figure], caption)]
