"""Measures of runs: curves, final and best numbers, steps to a threshold, speed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trpo_cli.columns import EVALUATION, EXACT_RETURN, INFO, RECENT, RETURN, STEPS
from trpo_cli.errors import RunDirectoryError
from trpo_cli.report.groups import Group
from trpo_cli.report.runs import ITERATIONS, SECONDS, RunRecord
from trpo_cli.statistics import Floats, steps_to, trailing_mean

AGAINST = (STEPS, ITERATIONS, "seconds")
NAMES = {
    RETURN: "training return",
    EVALUATION: "evaluation",
    RECENT: "training return of the last iteration",
    EXACT_RETURN: "discounted return",
    STEPS: "environment steps",
    "rollout/episode_length_mean": "episode length (steps)",
    "policy/kl": "KL (nats)",
    "policy/entropy": "entropy (nats)",
}
"""Columns of metrics.csv as people name them."""
POINTS = 200  # of a curve
APART = 1.05  # times the steps of others, which compare no longer
NEARLY = 0.9  # default threshold, as a fraction of the way from the first rows to the best final value


def name_metric(column: str) -> str:
    """Return what people call a column."""
    room, _, name = column.partition(INFO)
    if name:
        return f"{name} ({'evaluation' if room == 'eval' else 'training'})"
    return NAMES.get(column, column)


def count_unit(groups: Sequence[Group]) -> str:
    """Return what `env_steps` counts: an exact sampler takes no steps in an environment, and its iterations count."""
    exact = all(EXACT_RETURN in record.rows for group in groups for record in group.runs)
    return "iterations" if exact else "steps"


def series(record: RunRecord, metric: str, against: str = STEPS) -> tuple[Floats, Floats]:
    """Places (I,) and the metric there (I,), in the rows that have it.

    Seconds are those of sampling and updates. Raises `RunDirectoryError` if the run has no such columns.
    """
    y = record.rows[metric]
    if against == STEPS:
        x = record.rows[STEPS]
    elif against == ITERATIONS:
        x = record.rows.get(ITERATIONS, np.arange(1.0, len(y) + 1))
    elif set(SECONDS) <= record.rows.keys():
        x = np.cumsum(sum(record.rows[name] for name in SECONDS))
    else:
        raise RunDirectoryError(f"--against seconds: {record.where()} has no column {SECONDS[0]}")
    there = ~np.isnan(y)
    return x[there], y[there]


def curve(
    runs: Sequence[RunRecord], metric: str, against: str = STEPS, spacing: Any = np.linspace, smooth: int = 1
) -> tuple[Floats, Floats]:
    """Places (P,) that all the runs have reached, and every run's metric there (S, P), interpolated.

    Where runs begin later than others end there is one place, the first end, with the nearest value of each.
    """
    lines = [series(record, metric, against) for record in runs]
    first, last = max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines)
    places = spacing(first, last, POINTS) if first < last else np.array([last])
    return places, np.stack([np.interp(places, x, trailing_mean(y, smooth)) for x, y in lines])


def common_step(group: Group, metric: str) -> float:
    """Return the last step that all runs of the group have reached."""
    return float(min(series(record, metric)[0][-1] for record in group.runs))


def shared_step(task: Sequence[Group], metric: str) -> float:
    """Return the last step that all runs of all groups have reached, at which they compare."""
    return min(common_step(group, metric) for group in task)


def finals(group: Group, metric: str, step: float | None = None) -> Floats:
    """The metric of each run at a step that all of them have reached (S,), interpolated; by default the last such."""
    step = common_step(group, metric) if step is None else step
    return np.array([np.interp(step, *series(record, metric)) for record in group.runs])


def bests(group: Group, metric: str) -> Floats:
    """Return the highest value of each run up to the common step (S,)."""
    step = common_step(group, metric)
    lines = [series(record, metric) for record in group.runs]
    return np.array([y[: max(1, np.searchsorted(x, step, side="right"))].max() for x, y in lines])


def latest(group: Group, column: str, metric: str, step: float | None = None) -> Floats:
    """The last value of a column in each run up to a step, by default the common one of the metric; of those that have
    one (E,)."""
    step = common_step(group, metric) if step is None else step
    lines = [series(record, column) for record in group.runs if column in record.rows]
    return np.array([y[x <= step][-1] for x, y in lines if (x <= step).any()])


def steps_to_threshold(group: Group, metric: str, threshold: float) -> Floats:
    """Return the step at which each run first reaches the threshold (S,), infinite if it never does."""
    return np.array([steps_to(threshold, *rises(record, metric)) for record in group.runs])


def rises(record: RunRecord, metric: str) -> tuple[Floats, Floats]:
    """The steps (B,) in which the metric was higher than ever before, and the metric there (B,), ascending.

    Those of all rows, where an archive keeps them.
    """
    if record.whole and metric in record.whole.rises:
        return record.whole.rises[metric]
    steps, values = series(record, metric)
    higher = values > np.maximum.accumulate(np.concatenate([[-np.inf], values[:-1]]))
    return steps[higher], values[higher]


def untrained_mean(groups: Sequence[Group], metric: str) -> float:
    """Return the mean of the first rows of all runs, when policies have hardly learned."""
    return float(np.mean([series(record, metric)[1][0] for group in groups for record in group.runs]))


def default_threshold(groups: Sequence[Group], metric: str) -> float:
    """Return nine tenths of the way from the first rows to the final mean of the best group of the task."""
    start = untrained_mean(groups, metric)
    return start + NEARLY * (max(float(finals(group, metric).mean()) for group in groups) - start)


def speeds(group: Group) -> Floats:
    """Return the steps per second of each run over its whole time (S,)."""
    return np.array([r.steps / r.wall_seconds for r in group.runs if r.wall_seconds > 0])
