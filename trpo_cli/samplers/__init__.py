"""What algorithms ask of a sampler: it decides who acts when, in environments that it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from trpo_cli.data import Sample
from trpo_cli.envs.make import Width
from trpo_cli.models.policies import Policy


class Sampler(ABC):
    """Finds out what policies are worth."""

    env_steps: int  # taken in all
    beside: ClassVar[type | None] = Width  # the keys of its configuration that are for the environments it is given
    headline: ClassVar[str] = "rollout/episode_return_mean"  # the metric that says how good the policy is
    in_process: ClassVar[bool] = False  # whether its environments have to be in this process
    random: ClassVar[bool] = True  # False: the same policy gives the same sample, and what is rejected once always is

    @abstractmethod
    def metrics(self) -> dict[str, float | None]:
        """`rollout/*` and its own metrics, with the same keys each time."""

    def abandon(self) -> None:  # noqa: B027  not every sampler follows episodes from one sample to the next
        """Forget the episodes that have not ended: the environments begin anew."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold: tensors, plain scalars, lists and dicts."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""


class PolicySampler(Sampler):
    """Tries actions of one stochastic policy."""

    actions_per_state: int = 1
    tries_all: bool = False  # whether these are all actions of a finite set, each once

    @abstractmethod
    def collect(self, policy: Policy) -> Sample:
        """The next sample; episodes go on from one call to the next."""
