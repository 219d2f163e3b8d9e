"""References for runs: the return that counts as learned, and the returns that count as 0 and 1 on a task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trpo_cli.errors import RunDirectoryError, did_you_mean
from trpo_cli.report.groups import Group
from trpo_cli.report.measures import common_step, default_threshold, finals, shared_step, untrained_mean
from trpo_cli.report.published import Published
from trpo_cli.statistics import Floats

EVERY_TASK = ""
NEARLY_BEST = "90 % of the way to the best group's final"
NONE_COMPARES = "no published number of these algorithms has as many steps and several seeds"


@dataclass(frozen=True)
class Scale:
    """The values of one task that are 0 and 1 of a normalised score, and what the latter is."""

    low: float
    high: float
    origin: str

    def __call__(self, values: Floats) -> Floats:
        return (values - self.low) / (self.high - self.low)


def find_best_published(groups: Sequence[Group], numbers: Sequence[Published], metric: str) -> Published | None:
    """Return the highest published number that is comparable to any of the groups, all of one task."""
    own = [(group.algo, common_step(group, metric)) for group in groups if not group.alterations]
    fitting = [number for number in numbers if any(number.matches(*one) for one in own)]
    return max(fitting, key=lambda number: number.value, default=None)


def choose_thresholds(
    tasks: Sequence[Sequence[Group]],
    given: dict[str, list[float]],
    numbers: dict[str, list[Published]],
    metric: str,
) -> dict[str, list[tuple[float, str]]]:
    """task -> the thresholds, each with where it is from. Raises `RunDirectoryError` for a task that no run is of."""
    names = [task[0].task for task in tasks]
    for name in given:
        if name != EVERY_TASK and name not in names:
            hint = did_you_mean(name, names) or f"; there are: {', '.join(names)}"
            raise RunDirectoryError(f"--threshold: no run has the task '{name}'{hint}")
    found = {}
    for task, name in zip(tasks, names, strict=True):
        mine = given.get(name, given.get(EVERY_TASK, []))
        found[name] = [(value, "given") for value in mine] or [_choose_threshold(task, numbers[name], metric)]
    return found


def _choose_threshold(task: Sequence[Group], numbers: Sequence[Published], metric: str) -> tuple[float, str]:
    """Return the best comparable published number, or else most of the way to the best group."""
    if best := find_best_published(task, numbers, metric):
        return best.value, f"the best published: {best.describe()}"
    return default_threshold(task, metric), f"{NEARLY_BEST}: {NONE_COMPARES}" if numbers else NEARLY_BEST


def make_scales(tasks: Sequence[Sequence[Group]], numbers: dict[str, list[Published]], metric: str) -> dict[str, Scale]:
    """Return task -> scale, from the mean of the first rows to the best, without tasks on which nothing was learned."""
    found = {}
    for task in tasks:
        low = untrained_mean(task, metric)
        best = find_best_published(task, numbers[task[0].task], metric)
        high = (
            max(float(finals(group, metric, shared_step(task, metric)).max()) for group in task)
            if best is None
            else best.value
        )
        if high > low:
            origin = "best run" if best is None else f"best published: {best.describe()}"
            found[task[0].task] = Scale(low, high, origin)
    return found
