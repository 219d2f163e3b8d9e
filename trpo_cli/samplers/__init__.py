"""What algorithms ask of a sampler."""

from __future__ import annotations

from typing import Any, Protocol

from trpo_cli.data import Rollout
from trpo_cli.envs.normalize import ObservationNormalizer
from trpo_cli.policies import Policy


class Sampler(Protocol):
    """Plays a policy in its environments."""

    env_steps: int  # taken in all
    normalizer: ObservationNormalizer  # what the policy's observations went through

    def collect(self, policy: Policy) -> Rollout:
        """The next rollout; episodes go on from one call to the next."""

    def metrics(self) -> dict[str, float | None]:
        """`env_steps` and `rollout/*` of the row of metrics."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold: tensors, plain scalars, lists and dicts."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
