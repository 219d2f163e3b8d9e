"""What algorithms ask of a sampler. It decides who acts when, in environments that it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from trpo_cli.columns import RETURN
from trpo_cli.data import Sample
from trpo_cli.envs.make import Width
from trpo_cli.models.policies import Policy


class Sampler(ABC):
    """Finds out what policies are worth."""

    env_steps: int  # in total
    beside: ClassVar[type | None] = Width  # further keys of its configuration, which describe the environments
    headline: ClassVar[str] = RETURN  # the metric that says how good the policy is
    in_process: ClassVar[bool] = False  # whether its environments must live in this process
    random: ClassVar[bool] = True  # False if the same policy always gives the same sample

    @abstractmethod
    def metrics(self) -> dict[str, float | None]:
        """Return `rollout/*` and its own metrics, with the same keys each time."""

    def abandon(self) -> None:  # noqa: B027  most samplers begin new episodes anyway
        """Forget unfinished episodes, because the environments were replaced."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold: tensors, plain scalars, lists and dicts."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""


class PolicySampler(Sampler):
    """Tries actions of one stochastic policy."""

    actions_per_state: int = 1
    tries_all: bool = False  # whether it tries every action of a finite set once
    carries_memory: ClassVar[bool] = False  # whether it follows episodes, in which policies may remember
    only_for_memory: Sequence[str] = ()  # the keys that were given and matter only then

    @abstractmethod
    def collect(self, policy: Policy) -> Sequence[Sample]:
        """Collect the next samples, one for each shard of this process; episodes continue from one call to the next."""
