"""The options of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from trpo_cli.columns import STEPS
from trpo_cli.statistics import MEAN, Statistic

HEADLINE = "headline"  # in place of a column


@dataclass(frozen=True)
class Options:
    """The options of a report."""

    metric: str = HEADLINE  # or a column of metrics.csv
    against: Sequence[str] = (STEPS,)  # some of `measures.AGAINST`, one panel each
    by: Sequence[str] = ()  # keys in which the runs of a group agree; by default all but the seed
    statistic: Statistic = MEAN  # over the runs of a group
    smooth: int = 1  # rows over which curves are averaged
    thresholds: dict[str, list[float]] = field(default_factory=dict)  # task or EVERY_TASK -> returns to reach
    compare: bool = False  # with published numbers
    versus: Sequence[str] = ()  # labels: the first is compared with the others, or with all if it is the only one
    title: str = "Learning curves and results"
