"""How far a run has come, and whether that is far enough to end it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from trpo_cli.columns import EPISODES, EVALUATION, RECENT
from trpo_cli.config.settings import EVAL, StopSettings

AT_RETURN, PATIENCE = "stop.at_return", "stop.patience"
WINDOW = 100  # episodes that have to end before their mean return may end a run


@dataclass(frozen=True)
class Best:
    """The best checkpoint that was kept: by which return, the return itself, and after how many steps."""

    by: Literal["eval", "train"] | None = None
    value: float | None = None
    env_steps: int | None = None


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
    best_evaluation_return: float | None = None
    stale_evaluations: int = 0  # those since the best one
    episodes: int | None = None  # that ended while sampling; None for methods that sample none
    best: Best = Best()
    faults: int = 0  # samples and evaluations that the environments spoiled
    inexact_resumes: int = 0  # those that had to reset the environments

    def note(self, env_steps: int, metrics: Mapping[str, float | None], headline: str) -> None:
        """Count an iteration that ended after `env_steps` with these metrics."""
        self.env_steps, self.iterations = env_steps, self.iterations + 1
        self.final_training_return = metrics[headline]
        recent = metrics.get(RECENT)
        self.recent_training_return = self.recent_training_return if recent is None else recent
        self.final_evaluation_return = metrics[EVALUATION]
        returns = (self.best_training_return, self.final_training_return)
        self.best_training_return = max((r for r in returns if r is not None), default=None)
        finished = metrics.get(EPISODES)
        self.episodes = None if finished is None else int(finished)
        if self.final_evaluation_return is not None:
            is_better = _exceeds(self.final_evaluation_return, self.best_evaluation_return)
            self.stale_evaluations = 0 if is_better else self.stale_evaluations + 1
            self.best_evaluation_return = self.final_evaluation_return if is_better else self.best_evaluation_return

    def note_best(self, by: Literal["eval", "train"]) -> bool:
        """Return whether the state after the last row is the best so far by that return, and note it if so."""
        value = self.final_evaluation_return if by == EVAL else self.final_training_return
        if value is None or not _exceeds(value, self.best.value):
            return False
        self.best = Best(by, value, self.env_steps)
        return True

    def find_end(self, stop: StopSettings, evaluated: bool) -> dict[str, Any] | None:
        """Why the run ends here, before `total_steps`: the key, its value, and what was reached; None if it goes on.

        Returns are those of evaluations if the run is `evaluated`, otherwise of training.
        """
        has_window = self.episodes is None or self.episodes >= WINDOW
        training = self.final_training_return if has_window else None
        value = self.final_evaluation_return if evaluated else training
        if stop.at_return is not None and value is not None and value >= stop.at_return:
            return {"by": AT_RETURN, "given": stop.at_return, "reached": value, "env_steps": self.env_steps}
        if stop.patience is not None and self.stale_evaluations >= stop.patience:
            best = self.best_evaluation_return
            return {"by": PATIENCE, "given": stop.patience, "reached": best, "env_steps": self.env_steps}
        return None

    def summary(self, stopped: Mapping[str, Any] | None) -> dict[str, Any]:
        """The part of `summary.json` that says what was reached, and why the run `stopped` early if it did."""
        values = asdict(self)
        seconds, best = values.pop("seconds"), values.pop("best")
        return {
            **values,
            "best_checkpoint": best if best["by"] else None,
            "stopped": stopped,
            "wall_seconds": seconds,
            "steps_per_second": self.env_steps / seconds,
        }


def describe_end(stopped: Mapping[str, Any]) -> str:
    """Say why a run ended early."""
    if stopped["by"] == PATIENCE:
        return f"{PATIENCE}={stopped['given']}: as many evaluations in a row were not above {stopped['reached']:.5g}"
    return f"{AT_RETURN}={stopped['given']:.5g}: a return of {stopped['reached']:.5g} reached it"


def _exceeds(value: float, best: float | None) -> bool:
    return value > (-float("inf") if best is None else best)
