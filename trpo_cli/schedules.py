"""Schedules: the decay of learning rates and radii, and periodic events."""

from __future__ import annotations

from typing import Literal

Falling = Literal["linear", "late"]  # to 0 at the end of training
Decay = Literal["none", Falling]


def decay_value(rate: float, decay: Decay, progress: float) -> float:
    """`rate` after the fraction `progress` in [0, 1] of training.

    It is constant (`none`), falls linearly to 0 (`linear`), or is constant for half of training and falls linearly to 0
    in the other half (`late`).
    """
    left = max(0.0, 1.0 - progress)
    return rate * {"none": 1.0, "linear": left, "late": min(1.0, 2 * left)}[decay]


def is_due(every: int, before: int, now: int) -> bool:
    """Whether a multiple of `every` lies in (before, now]; False if `every` is 0."""
    return every > 0 and now // every > before // every
