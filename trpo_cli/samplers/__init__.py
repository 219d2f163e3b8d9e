"""What algorithms ask of a sampler."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from trpo_cli.data import Sample
from trpo_cli.envs.environments import Environments
from trpo_cli.envs.normalize import ObservationNormalizer
from trpo_cli.models.policies import Policy
from trpo_cli.surrogates import Surrogate, Tries


class Sampler(ABC):
    """Finds out what policies are worth in its environments."""

    environments: Environments
    normalizer: ObservationNormalizer  # what the policy's observations went through
    env_steps: int  # taken in all
    random: bool = True  # False: the same policy gives the same sample, so that an update rejected once always is

    @abstractmethod
    def metrics(self, policy: Policy) -> dict[str, float | None]:
        """`env_steps`, `rollout/*` and its own, of the row of metrics; `policy` is what the iteration ended with."""

    def recover(self, seeds: list[int]) -> None:
        """Begin new episodes in new environments, environment i with `seeds[i]`: the present ones are of no more use.

        Raises `EnvironmentFault` if they cannot be reset.
        """
        self.environments.rebuild(seeds)

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold: tensors, plain scalars, lists and dicts."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""


class PolicySampler(Sampler):
    """Tries actions of one stochastic policy."""

    tries: Tries
    surrogate: Surrogate  # the estimator that fits its samples, where the algorithm names none

    @abstractmethod
    def collect(self, policy: Policy) -> Sample:
        """The next sample; episodes go on from one call to the next."""
