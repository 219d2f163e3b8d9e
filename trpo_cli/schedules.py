"""What changes over training, and when: named conditions, and the decay of learning rates and radii."""

from __future__ import annotations

from typing import Literal

Decay = Literal["none", "linear"]


def decayed(rate: float, decay: Decay, progress: float) -> float:
    """`rate` after the fraction `progress` in [0, 1] of training: constant, or on a straight line to 0."""
    return rate if decay == "none" else rate * max(0.0, 1.0 - progress)


def due(every: int, before: int, now: int) -> bool:
    """Whether a multiple of `every` lies in (before, now]; never for `every` 0."""
    return every > 0 and now // every > before // every
