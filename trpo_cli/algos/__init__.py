"""What the training loop asks of an algorithm."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from trpo_cli.errors import TrainingError
from trpo_cli.samplers import Sampler

Metrics = dict[str, float | None]
"""Columns of `metrics.csv`: None where there is no value at the moment, such as before the first episode has ended."""


class Outcome(IntEnum):
    """Why an update was accepted, or why the policy stayed bit for bit what it was."""

    ACCEPTED = 0
    ZERO_GRADIENT = 1
    NON_FINITE_GRADIENT = 2
    NON_FINITE_LOSS = 3
    BAD_CURVATURE = 4
    NO_IMPROVEMENT = 5
    CONSTRAINT_VIOLATED = 6

    def metrics(self) -> Metrics:
        """The columns that say so; their names are older than the methods without a trust region."""
        return {"trust_region/accepted": float(self is Outcome.ACCEPTED), "trust_region/outcome": float(self)}


@dataclass(frozen=True)
class Iteration:
    """What one iteration did."""

    env_steps: int  # since training began
    sample_seconds: float
    update_seconds: float
    metrics: Metrics  # what else there is to log, with the same keys in each iteration of a run


class Algorithm(ABC):
    """Anything that gets better by iterating."""

    sampler: Sampler

    @property
    def headline(self) -> str:
        """The metric that says how good the policy is; it is shown first, summarised and compared."""
        return self.sampler.headline

    @property
    def only_at_first(self) -> tuple[str, ...]:
        """The settings that no schedule can move, as they are read when training begins and never again."""
        return ()

    def require_headline(self, metrics: Metrics) -> None:
        """Raise `TrainingError` unless the headline is one of the metrics of an iteration."""
        if self.headline not in metrics:
            source = self.sampler if type(self).headline is Algorithm.headline else self
            raise TrainingError(
                f"{type(source).__name__}.headline: got '{self.headline}'; it should be one of the metrics of an "
                f"iteration: {', '.join(sorted(metrics))}"
            )

    @abstractmethod
    def iterate(self) -> Iteration:
        """Improve the policy once."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold of the algorithm itself: tensors, plain scalars, lists and dicts."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
