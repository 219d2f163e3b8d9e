"""How far a run has come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Progress:
    """Counts and returns since the run began, however often it was resumed."""

    env_steps: int = 0
    iterations: int = 0
    seconds: float = 0.0
    best_training_return: float | None = None
    final_training_return: float | None = None  # the headline of the last row
    recent_training_return: float | None = None  # of the latest iteration in which episodes ended
    final_evaluation_return: float | None = None
    faults: int = 0  # samples and evaluations that the environments spoiled
    inexact_resumes: int = 0  # those that had to reset the environments

    def note(self, env_steps: int, metrics: Mapping[str, float | None], headline: str) -> None:
        """Count an iteration that ended after `env_steps` with these metrics."""
        self.env_steps, self.iterations = env_steps, self.iterations + 1
        self.final_training_return = metrics[headline]
        recent = metrics.get("rollout/recent_return_mean")
        self.recent_training_return = self.recent_training_return if recent is None else recent
        self.final_evaluation_return = metrics["eval/episode_return_mean"]
        returns = (self.best_training_return, self.final_training_return)
        self.best_training_return = max((r for r in returns if r is not None), default=None)

    def summary(self) -> dict[str, Any]:
        """The part of `summary.json` that says what was reached."""
        values = asdict(self)
        seconds = values.pop("seconds")
        return {**values, "wall_seconds": seconds, "steps_per_second": self.env_steps / seconds}
