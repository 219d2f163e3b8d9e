"""The parts of a run, and what all ranks do with them at once."""

from __future__ import annotations

import functools
import logging
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from trpo_cli.errors import ConfigError, EnvironmentFault, NoSnapshot
from trpo_cli.play.episodes import Episodes, Evaluation, evaluate
from trpo_cli.play.trained import with_own_scales
from trpo_cli.run.layout import name_part
from trpo_cli.schedules import Schedules

if TYPE_CHECKING:  # torch takes a second to import, and `--help` does not need it
    from trpo_cli.algos import Algorithm, Iteration
    from trpo_cli.envs.environments import Environments
    from trpo_cli.envs.make import Task
    from trpo_cli.envs.normalize import ObservationNormalizer, RewardScaler
    from trpo_cli.models.critics import Critic
    from trpo_cli.models.policies import Policy
    from trpo_cli.samplers import Sampler
    from trpo_cli.shards import Shards

log = logging.getLogger("trpo_cli")
M = TypeVar("M", bound=Callable[..., Any])
INEXACT = "a resume will not be exact, and resets the environments: %s"
LEARNING = ("normalizer", "reward_scaler", "sampler", "policy", "critic", "algorithm")  # parts that have a state


def together(method: M) -> M:
    """Decorate a method of `Parts` that all ranks call together: when the leader does, it has the others do so too."""

    @functools.wraps(method)
    def call(self: Parts, *arguments: Any) -> Any:
        ranks = self.shards.ranks
        ranks.order(method.__name__, *arguments)
        try:
            return method(self, *arguments)
        except BaseException as error:
            if error is not ranks.agreed:
                ranks.give_up()
            raise

    return call  # type: ignore[return-value]


@dataclass
class Parts:
    """All parts of a run; of its environments, those of the shards of this process."""

    shards: Shards
    task: Task
    environments: list[Environments]
    normalizer: ObservationNormalizer  # of the policy's observations
    reward_scaler: RewardScaler
    sampler: Sampler
    policy: Policy
    critic: Critic
    algorithm: Algorithm
    schedules: Schedules
    obstacle: str | None  # the reason why a resume has to reset the environments, if there is one
    origin: dict[str, Any] | None = None  # what it began with in place of random numbers

    @property
    def packages(self) -> list[str]:
        """The installed packages, apart from those of every run, on which observations depend."""
        from trpo_cli.envs.registered import find_distributions

        return find_distributions(self.task.id, *(["cv2"] if self.task.grey or self.task.resize else []))

    @property
    def num_envs(self) -> int:
        """The environments of all shards."""
        return self.shards.count * self.environments[0].num_envs

    def evaluate(self, plan: Episodes, seed: int) -> Evaluation:
        """Play episodes with the likeliest actions, with the same parallelism as in training.

        Raises `EnvironmentFault` if the environments for it cannot be made, or if one of them fails.
        """
        parallelism = self.environments[0].parallelism
        try:
            return evaluate(self.task, self.policy, self.normalizer, plan, seed, parallelism=parallelism)
        except ConfigError as error:  # the training environments could be made, so the configuration is valid
            raise EnvironmentFault(
                f"no {self.task.id} can be made for the evaluation: {error}\neval.every=0 turns evaluations off"
            ) from error

    @together
    def iterate(self, progress: float) -> Iteration:
        """Improve the policy once, after the fraction `progress` in [0, 1] of training, which schedules follow."""
        scheduled = self.schedules.follow(progress)
        done = self.algorithm.iterate()
        if self.shards.ranks.size > 1:
            from trpo_cli.models.linearisation import flat

            self.shards.ranks.expect_same(zlib.crc32(flat(self.policy).cpu().numpy().tobytes()))
        return replace(done, metrics={**done.metrics, **scheduled})

    @together
    def renew_environments(self, seed: int, event: str) -> None:
        """Start new episodes in new environments, seeded by the seed of the run and the name of the event.

        Raises `EnvironmentFault` if they cannot be made or reset.
        """
        seeds = split_seeds(self.shards, seed, f"environments after {event}", self.num_envs)
        self.shards.attempt(lambda envs, own: envs.rebuild(own), self.environments, seeds)
        self.sampler.abandon()

    @together
    def state_dict(self) -> dict[str, Any]:
        """Return the state of all parts for a checkpoint."""
        actions = repr(self.policy.distribution)  # for runs that begin from this one
        learning = {name: getattr(self, name).state_dict() for name in LEARNING}
        return {**learning, "environments": self._save_environments(), "actions": actions}

    def _save_environments(self) -> Any:
        """Return the state of the environments, a list for several shards; None if it cannot be kept."""
        if self.obstacle:
            return None
        try:
            states = self.shards.attempt(lambda envs: envs.state_dict(), self.environments)
        except NoSnapshot as obstacle:  # it may arise during training
            self.obstacle = str(obstacle)
            log.warning(INEXACT, obstacle)
            return None
        states = self.shards.gather(states)
        return states[0] if self.shards.count == 1 else states

    @together
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.shards.ranks.attempt(lambda: self._load_state_dict(state))

    def _load_state_dict(self, state: dict[str, Any]) -> None:
        state = with_own_scales(state)
        for name in LEARNING:
            if name in state or name != "reward_scaler":  # earlier versions had one only where a sampler used it
                own = state[name]
                with name_part(name.replace("_", " ")):
                    getattr(self, name).load_state_dict(own)
        if state["environments"] is not None:
            states = [state["environments"]] if self.shards.count == 1 else state["environments"]
            for number, environments in zip(self.shards.own, self.environments, strict=True):
                environments.load_state_dict(states[number])

    @together
    def adopt(self, states: dict[str, Any]) -> None:
        """Load the states of parts that another run lent to the leader."""
        for name, state in states.items():
            getattr(self, name).load_state_dict(state)

    def close(self) -> None:
        """Close the environments of this process, and end its helper."""
        close_all(self.environments)
        self.critic.close()


def close_all(environments: Sequence[Environments]) -> None:
    """Close environments."""
    for one in environments:
        one.close()


def split_seeds(shards: Shards, seed: int, stream: str, num_envs: int) -> list[list[int]]:
    """Seeds for the environments of each shard of this process, of which there are `num_envs` in all shards."""
    from trpo_cli.seeding import environment_seeds

    seeds = environment_seeds(seed, stream, num_envs)
    return [seeds[place] for place in shards.places(num_envs)]
