"""What a reader should know before trusting a number: runs that are not counted, and averages of unlike runs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from trpo_cli.errors import counted
from trpo_cli.report.groups import Group, averaged_settings, repeated_seeds
from trpo_cli.report.measures import common_step
from trpo_cli.report.runs import EVALUATION, RunRecord
from trpo_cli.run.state import RETURN

STATUSES = {  # the worst first; of one run, of many
    "broken": ("is broken", "are broken"),
    "failed": ("failed", "failed"),
    "duplicate": ("is a duplicate", "are duplicates"),
    "stopped": ("stopped", "stopped"),
    "running": ("is running", "are running"),
}
ALIKE = ("duplicate", "stopped", "running")  # whatever their notes, which name directories and steps
EPISODES = "rollout/episodes"
SHORT = 200  # episodes of a run
MANY = 8  # kinds of failures that are listed; the table of runs has all


def notices(records: Sequence[RunRecord], drawn: Sequence[Group], averaged: Sequence[Group], metric: str) -> list[str]:
    """Every notice on the runs, on the groups as they are drawn, and on the runs of each that are averaged."""
    return [
        *instead(records, metric),
        *unfinished(records),
        *measureless(records, metric),
        *(said for group in averaged for said in unlike(group, metric)),
        *lagging(averaged, metric),
        *averaging_over_some(drawn, averaged),
    ]


def instead(records: Sequence[RunRecord], metric: str) -> list[str]:
    """A notice that evaluations stand in for training returns, which no run has."""
    if metric != EVALUATION or any(record.has(record.headline) for record in records):
        return []
    return ["no run has ended an episode while it sampled: the returns shown are evaluations"]


def unfinished(records: Sequence[RunRecord]) -> list[str]:
    """Runs that are unfinished or not counted, one line for all that are alike."""
    alike: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for record in records:
        if record.status in STATUSES:
            alike[record.status, "" if record.status in ALIKE else record.note].append(record)
    worst = sorted(alike.values(), key=lambda runs: (list(STATUSES).index(runs[0].status), -len(runs)))
    failures = [runs for runs in worst if runs[0].status not in ALIKE]
    more = sum(map(len, failures[MANY:]))
    return [
        *map(_said, failures[:MANY]),
        *([f"{more} more runs failed or are broken: see the table of runs"] if more else []),
        *(_said(runs) for runs in worst if runs[0].status in ALIKE),
    ]


def _said(runs: Sequence[RunRecord]) -> str:
    """What happened to one run, or to many alike."""
    first, (one, all_) = runs[0], STATUSES[runs[0].status]
    if len(runs) == 1:
        return f"{first.where()} {one}: {first.note}"
    if first.status in ALIKE:
        return f"{len(runs)} runs {all_}, e.g. {first.where()}: {first.note}"
    return f"{len(runs)} runs {all_}: {first.note}, e.g. {first.where()}"


def measureless(records: Sequence[RunRecord], metric: str) -> list[str]:
    """Runs without the metric, which are in no group: a line for each task."""
    tasks: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        if record.status in ("finished", "running", "stopped") and not record.has(metric):
            tasks[record.task].append(record)
    return [f"{_counted(runs)} {_lacking(runs, metric)}" for runs in tasks.values()]


def _counted(runs: Sequence[RunRecord]) -> str:
    """`3 runs of Hopper-v4 (2 npg, 1 ppo)`."""
    algos = ", ".join(f"{count} {algo}" for algo, count in sorted(Counter(run.algo for run in runs).items()))
    return f"{counted(len(runs), 'run')} of {runs[0].task} ({algos})"


def _lacking(runs: Sequence[RunRecord], metric: str) -> str:
    have, are = ("has", "is") if len(runs) == 1 else ("have", "are")
    others = sorted({run.headline for run in runs if run.has(run.headline)} - {metric})
    if others or metric != RETURN:
        hint = f"; see --metric {others[0]}" if others else ""
        return f"{have} no {metric}, and {are} in no group{hint}"
    evaluated = any(run.has(EVALUATION) for run in runs)
    return f"{have} ended no episode: no training return" + (f"; see --metric {EVALUATION}" if evaluated else "")


def unlike(group: Group, metric: str) -> list[str]:
    """What is uneven within a group: how far its runs have come, their settings, seeds that come again."""
    said, name = [], f"{group.task}, {group.label}"
    step = int(common_step(group, metric))
    shortest = min(group.runs, key=lambda record: record.steps)
    longest = max(record.steps for record in group.runs)
    if longest > 1.05 * step:
        come = f"where {shortest.where()} ({shortest.status}) has come to"
        said.append(f"{name}: ends at {step:,} of {longest:,} steps, {come}")
    if others := averaged_settings(group):
        said.append(f"{name}: averages over runs that also differ in {', '.join(others)}{again(group)}")
    return said


def lagging(groups: Sequence[Group], metric: str) -> list[str]:
    """Where the last 100 episodes are half of all the episodes of a run, or more."""
    if metric != RETURN:
        return []
    short = [group for group in groups if any(record.last(EPISODES) < SHORT for record in group.runs)]
    if not short:
        return []
    told = ", ".join(f"{group.task} {group.label}" for group in short[:MANY])
    more = f" and {len(short) - MANY} more" if len(short) > MANY else ""
    return [
        f"{told}{more}: of fewer than {SHORT} episodes, the last 100 are half of a run or all of it, so that the "
        "training return lags behind the policy: see the evaluation"
    ]


def again(group: Group) -> str:
    """Which seeds come more than once, and how often: in runs that differ in their settings."""
    told = ", ".join(f"seed {seed} comes {times} times" for seed, times in repeated_seeds(group).items())
    return f"; {told}, and the interval takes all {len(group.runs)} runs as independent" if told else ""


def averaging_over_some(drawn: Sequence[Group], averaged: Sequence[Group]) -> list[str]:
    """Which groups average over fewer runs than there are."""
    return [
        f"{all_.task}, {all_.label}: averages over the {len(some.runs)} finished of {len(all_.runs)} runs"
        for all_, some in zip(drawn, averaged, strict=True)
        if len(some.runs) < len(all_.runs)
    ]
