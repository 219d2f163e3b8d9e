"""What changes over training, and when: named conditions, and the decay of learning rates and radii."""

from __future__ import annotations

from typing import Literal

Falling = Literal["linear", "late"]  # to 0 at the end of training
Decay = Literal["none", Falling]


def decayed(rate: float, decay: Decay, progress: float) -> float:
    """`rate` after the fraction `progress` in [0, 1] of training: constant, on a straight line to 0, or constant for
    half of it and then on a straight line to 0 (`late`)."""
    left = max(0.0, 1.0 - progress)
    return rate * {"none": 1.0, "linear": left, "late": min(1.0, 2 * left)}[decay]


def due(every: int, before: int, now: int) -> bool:
    """Whether a multiple of `every` lies in (before, now]; never for `every` 0."""
    return every > 0 and now // every > before // every
