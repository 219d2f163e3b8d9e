"""Schedules: how a hyperparameter moves in the course of training, and periodic events.

A shape is a name, or a list of a name and what belongs to it. Fractions are those of all training:

    linear                              a straight line from the value to 0
    cosine                              half a cosine wave from the value to 0, level at both ends
    late                                the value for half of training, then a straight line to 0
    [linear, END]                       any of these three, to END instead of 0
    [step, [0.5, A], [0.8, B]]          the value, from half of training on A, and from four fifths on B
    [piecewise, [0.3, A], [1, B]]       straight lines from the value to A, and from A to B
    constant                            the value
"""

from __future__ import annotations

import math
import sys
from bisect import bisect
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

Curve = Callable[[float], float]
"""The fraction of training done, in [0, 1] -> the value."""
CONSTANT, STEP = "constant", "step"
FALLS: dict[str, Curve] = {  # from 1 at the beginning of training to 0 at its end
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
    "late": lambda progress: min(1.0, 2 * (1.0 - progress)),
}
THROUGH_POINTS = (STEP, "piecewise")
SHAPES = (CONSTANT, *FALLS, *THROUGH_POINTS)
FITS = {
    CONSTANT: CONSTANT,
    **{name: f"{name}, or [{name},END]" for name in FALLS},
    STEP: "[step,[FRACTION,VALUE],...] with ascending fractions between 0 and 1",
    "piecewise": "[piecewise,[FRACTION,VALUE],...] with ascending fractions above 0 and at most 1",
}
ALMOST_DONE = 1 - 1e-6  # iterations begin before this fraction, so a value may be 0 at the end


class Schedule(NamedTuple):
    """How a value moves, and the fractions of training between which it moves in one direction only."""

    curve: Curve
    turns: tuple[float, ...]


def make_schedule(start: float, shape: Any) -> Schedule | None:
    """Make the schedule of a value that begins at `start`; None if it stays there.

    Raises `ValueError`, which says what fits, if `shape` is none.
    """
    name, *given = shape if isinstance(shape, list) and shape else [shape]
    if name not in SHAPES:
        raise ValueError(f"it should be {', '.join(SHAPES[:-1])} or {SHAPES[-1]}")
    if name == CONSTANT and not given:
        return None
    if name in FALLS and (not given or (len(given) == 1 and _is_number(given[0]))):
        end, fall = float(given[0]) if given else 0.0, FALLS[name]
        return Schedule(lambda progress: end + (start - end) * fall(min(progress, 1.0)), (0.0, ALMOST_DONE))
    if name in THROUGH_POINTS and given and all(map(_is_point, given)) and _are_ordered(name, given):
        times, values = zip(*given, strict=True)
        curve = _stairs(start, times, values) if name == STEP else _polygon(start, times, values)
        return Schedule(curve, (0.0, *(min(time, ALMOST_DONE) for time in times), ALMOST_DONE))
    raise ValueError(f"it should be {FITS[name]}")


def _stairs(start: float, times: tuple[float, ...], values: tuple[float, ...]) -> Curve:
    return lambda progress: (start, *values)[bisect(times, progress)]


def _polygon(start: float, times: tuple[float, ...], values: tuple[float, ...]) -> Curve:
    corners = ((0.0, start), *zip(times, values, strict=True), (math.inf, values[-1]))

    def curve(progress: float) -> float:
        after = bisect(times, progress) + 1
        (begin, low), (end, high) = corners[after - 1 : after + 1]
        return low if high == low else low + (high - low) * (progress - begin) / (end - begin)

    return curve


def _is_point(given: Any) -> bool:
    return isinstance(given, list) and len(given) == 2 and all(map(_is_number, given)) and 0 < given[0] <= 1


def _are_ordered(name: str, points: list[Any]) -> bool:
    """Whether the fractions ascend, and a step leaves something of training."""
    times = [time for time, _ in points]
    return all(before < after for before, after in pairwise(times)) and (name != STEP or times[-1] < 1)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


@dataclass(frozen=True)
class Scheduled:
    """A hyperparameter that follows a schedule."""

    key: str  # in the configuration, such as algo.delta
    curve: Curve
    owners: list[MutableMapping[str, Any]]  # what the parts that use it read it from, under the last name of the key


class Schedules(list[Scheduled]):
    """All hyperparameters that follow schedules. They are functions of how much training is done, and have no state."""

    def follow(self, progress: float) -> dict[str, float | None]:
        """Give each its value after the fraction `progress` in [0, 1] of training, and return the values to log."""
        metrics: dict[str, float | None] = {}
        for one in self:
            value = one.curve(progress)
            for owner in one.owners:
                owner[one.key.rpartition(".")[2]] = value
            metrics[f"schedule/{one.key}"] = float(value)
        return metrics


def is_due(every: int, before: int, now: int) -> bool:
    """Whether a multiple of `every` lies in (before, now]; False if `every` is 0."""
    return every > 0 and now // every > before // every
