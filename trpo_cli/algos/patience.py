"""Rejected updates are counted, and too many in a row end the training. A zero gradient is not a failure."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from trpo_cli.algos import Algorithm, Outcome
from trpo_cli.errors import TrainingError
from trpo_cli.ranges import Count
from trpo_cli.samplers import Sampler

logger = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class PatientAlgorithm(Algorithm):
    """An algorithm whose updates may be rejected, which leaves the policy as it was."""

    sampler: Sampler
    max_rejected: Count  # updates in a row, before training ends
    rejected_in_a_row: int = field(default=0, init=False)
    unmoved: bool = field(default=False, init=False)  # the gradient of the last update was zero

    def _note(self, outcome: Outcome) -> None:
        """Count rejected updates in a row, and log why this one was.

        A zero gradient leaves nothing to do: no reward has been found yet, or the task is solved.
        """
        unmoved, self.unmoved = self.unmoved, outcome is Outcome.ZERO_GRADIENT
        if self.unmoved and not unmoved:
            logger.info("no gradient: nothing in this sample was better than the rest; the policy stays as it was")
        if outcome is Outcome.ACCEPTED:
            self.rejected_in_a_row = 0
        if outcome in (Outcome.ACCEPTED, Outcome.ZERO_GRADIENT):
            return
        self.rejected_in_a_row += 1
        if self.sampler.random or self.rejected_in_a_row == 1:  # where nothing is random, all that follow are the same
            reason = outcome.name.lower().replace("_", " ")
            logger.warning("update rejected (%s): the policy stays as it was", reason)

    def _check_patience(self) -> None:
        """Raise `TrainingError` if too many updates in a row were rejected; the last of them has been logged by now.

        Where nothing is random, the policy has converged, and training may go on.
        """
        if self.sampler.random and self.rejected_in_a_row >= self.max_rejected:
            raise TrainingError(
                f"{self.rejected_in_a_row} updates in a row were rejected: the policy no longer moves.\n"
                "train.log says why, as does trust_region/outcome in metrics.csv; "
                "algo.max_rejected sets how many are allowed."
            )

    def state_dict(self) -> dict[str, Any]:
        return {"rejected_in_a_row": self.rejected_in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rejected_in_a_row = state["rejected_in_a_row"]
