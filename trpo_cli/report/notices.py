"""What a reader should know before trusting a number: runs that are not counted, and averages of unlike runs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from trpo_cli.columns import EPISODES, EVALUATION, RETURN
from trpo_cli.errors import counted, enumerated
from trpo_cli.report.groups import Group, count_repeated_seeds, find_averaged_settings, name_groups
from trpo_cli.report.measures import APART, common_step
from trpo_cli.report.runs import RunRecord

STATUSES = {  # the worst first; for one run, and for several
    "broken": ("is broken", "are broken"),
    "failed": ("failed", "failed"),
    "duplicate": ("is a duplicate", "are duplicates"),
    "stopped": ("stopped", "stopped"),
    "running": ("is running", "are running"),
}
ALIKE = ("duplicate", "stopped", "running")  # counted together even if their notes, with directories and steps, differ
ENVS = "sampler.num_envs"
UNFINISHED = 0.2  # of the episodes that were begun; with as many, those that have ended are no fair sample
SHORT = 200  # episodes; a run with fewer is short
MANY = 8  # the most kinds of failures that are listed; the table of runs has all


def list_notices(
    records: Sequence[RunRecord], drawn: Sequence[Group], averaged: Sequence[Group], metric: str, is_chosen: bool
) -> list[str]:
    """List every notice on the runs, on the groups that are drawn, and on those groups with averaged runs only.

    `is_chosen` says that the user has chosen the metric.
    """
    return [
        *([] if is_chosen else note_evaluations(drawn, metric)),
        *note_unfinished(records),
        *note_missing_metric(records, metric),
        *(said for group in averaged for said in note_differences(group, metric)),
        *note_lag(averaged, metric),
        *note_partial_averages(drawn, averaged),
    ]


def note_evaluations(groups: Sequence[Group], metric: str) -> list[str]:
    """Note that evaluations replace training returns, which some groups lack."""
    if metric != EVALUATION:
        return []
    lacking = [group for group in groups if not any(run.has(run.headline) for run in group.runs)]
    who = "no run" if len(lacking) == len(groups) else f"no run of {name_groups(lacking)}"
    return [f"{who} has ended an episode while it sampled: the returns shown are evaluations"]


def note_unfinished(records: Sequence[RunRecord]) -> list[str]:
    """Note runs that are unfinished or not counted, in one line for all that are alike."""
    alike: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for record in records:
        if record.status in STATUSES:
            alike[record.status, "" if record.status in ALIKE else record.note].append(record)
    worst = sorted(alike.values(), key=lambda runs: (list(STATUSES).index(runs[0].status), -len(runs)))
    failures = [runs for runs in worst if runs[0].status not in ALIKE]
    more = sum(map(len, failures[MANY:]))
    return [
        *map(_describe, failures[:MANY]),
        *([f"{more} more runs failed or are broken: see the table of runs"] if more else []),
        *(_describe(runs) for runs in worst if runs[0].status in ALIKE),
    ]


def _describe(runs: Sequence[RunRecord]) -> str:
    """Describe what happened to one run, or to several alike."""
    first, (one, all_) = runs[0], STATUSES[runs[0].status]
    if len(runs) == 1:
        return f"{first.where()} {one}: {first.note}"
    if first.status in ALIKE:
        return f"{len(runs)} runs {all_}, e.g. {first.where()}: {first.note}"
    return f"{len(runs)} runs {all_}: {first.note}, e.g. {first.where()}"


def note_missing_metric(records: Sequence[RunRecord], metric: str) -> list[str]:
    """Note runs without the metric, which are in no group, in one line for each task."""
    tasks: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        if record.status in ("finished", "running", "stopped") and not record.has(metric):
            tasks[record.task].append(record)
    return [f"{_count_by_algorithm(runs)} {_explain_missing(runs, metric)}" for runs in tasks.values()]


def _count_by_algorithm(runs: Sequence[RunRecord]) -> str:
    """Count runs by algorithm: `3 runs of Hopper-v4 (2 npg, 1 ppo)`."""
    algos = ", ".join(f"{count} {algo}" for algo, count in sorted(Counter(run.algo for run in runs).items()))
    return f"{counted(len(runs), 'run')} of {runs[0].task} ({algos})"


def _explain_missing(runs: Sequence[RunRecord], metric: str) -> str:
    have, are = ("has", "is") if len(runs) == 1 else ("have", "are")
    others = sorted({run.headline for run in runs if run.has(run.headline)} - {metric})
    if others or metric != RETURN:
        hint = f"; see --metric {others[0]}" if others else ""
        return f"{have} no {metric}, and {are} in no group{hint}"
    evaluated = any(run.has(EVALUATION) for run in runs)
    return f"{have} ended no episode: no training return" + (f"; see --metric {EVALUATION}" if evaluated else "")


def note_differences(group: Group, metric: str) -> list[str]:
    """Note differences within a group: how far its runs have come, their settings, repeated seeds."""
    said, name = [], f"{group.task}, {group.label}"
    step = int(common_step(group, metric))
    shortest = min(group.runs, key=lambda record: record.steps)
    longest = max(record.steps for record in group.runs)
    if longest > APART * step and any(record.goal is None for record in group.runs):
        state = (shortest.status == "finished" and shortest.note) or shortest.status  # why it ended early, if it did
        come = f"where {shortest.where()} ({state}) has come to"
        said.append(f"{name}: ends at {step:,} of {longest:,} steps, {come}")
    if others := find_averaged_settings(group):
        said.append(
            f"{name}: averages over runs that also differ in {', '.join(others)}{describe_repeated_seeds(group)}"
        )
    return said


def note_lag(groups: Sequence[Group], metric: str) -> list[str]:
    """Note groups with runs in which the last 100 episodes are at least half of all episodes."""
    if metric != RETURN:
        return []
    short = [group for group in groups if any(record.last(EPISODES) < SHORT for record in group.runs)]
    if not short:
        return []
    kinds: dict[str, list[Group]] = defaultdict(list)
    for group in short:
        kinds[_explain_lag(group)].append(group)
    return [f"{_name_on_tasks(alike)}: {why}" for why, alike in kinds.items()]


def _explain_lag(group: Group) -> str:
    """Say why the training return of few episodes says little: they are old, or those that ended are the short ones."""
    begun = [(run.last(EPISODES), run.settings.get(ENVS, 0)) for run in group.runs]
    see = ": see the evaluation" if any(run.has(EVALUATION) for run in group.runs) else ""
    if any(ended < SHORT and running >= UNFINISHED * (ended + running) for ended, running in begun):
        return (
            f"at least {UNFINISHED:.0%} of the episodes that were begun have not ended, and the training return "
            f"counts only those that have, the short ones first{see}".replace("%", " %")
        )
    return (
        f"with fewer than {SHORT} episodes, the last 100 are at least half of a run, so the training return lags "
        f"behind the policy{see}"
    )


def _name_on_tasks(groups: Sequence[Group]) -> str:
    """Name groups of any tasks: `Ant-v4 and Hopper-v4, trpo`."""
    names = list(dict.fromkeys(group.task for group in groups))
    return f"{enumerated(names) if len(names) <= MANY else counted(len(names), 'task')}, {name_groups(groups)}"


def describe_repeated_seeds(group: Group) -> str:
    """Say which seeds occur several times, in runs that differ in their settings."""
    names = ", ".join(f"seed {seed} occurs {times} times" for seed, times in count_repeated_seeds(group).items())
    return f"; {names}, and the interval treats all {len(group.runs)} runs as independent" if names else ""


def note_partial_averages(drawn: Sequence[Group], averaged: Sequence[Group]) -> list[str]:
    """Note groups that average over only some of their runs."""
    return [
        f"{all_.task}, {all_.label}: averages over the {len(some.runs)} finished of {len(all_.runs)} runs"
        for all_, some in zip(drawn, averaged, strict=True)
        if len(some.runs) < len(all_.runs)
    ]
