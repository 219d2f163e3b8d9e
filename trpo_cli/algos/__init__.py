"""What the training loop asks of an algorithm."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

Metrics = dict[str, float | None]
"""One row of `metrics.csv`: None where there is nothing to tell."""


class Algorithm(ABC):
    """Anything that gets better by iterating."""

    @abstractmethod
    def iterate(self, progress: float) -> Metrics:
        """One iteration, with the same keys each time; `progress` in [0, 1] is the fraction of training done before."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold of the algorithm itself: tensors, plain scalars, lists and dicts."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
