"""What algorithms ask of a sampler."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from trpo_cli.data import Rollout
from trpo_cli.envs.environments import Environments
from trpo_cli.envs.normalize import ObservationNormalizer
from trpo_cli.policies import Policy


class Sampler(ABC):
    """Plays a policy in its environments."""

    environments: Environments
    normalizer: ObservationNormalizer  # what the policy's observations went through
    env_steps: int  # taken in all

    @abstractmethod
    def collect(self, policy: Policy) -> Rollout:
        """The next rollout; episodes go on from one call to the next."""

    @abstractmethod
    def metrics(self) -> dict[str, float | None]:
        """`env_steps` and `rollout/*` of the row of metrics."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold: tensors, plain scalars, lists and dicts."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
