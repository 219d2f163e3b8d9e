"""Single path sampling (the TRPO paper, section 5.1): follow the policy, and keep what it sees and does."""

from __future__ import annotations

from collections.abc import Sequence

from trpo_cli.data import Rollout
from trpo_cli.envs.environments import Environments
from trpo_cli.envs.normalize import ObservationNormalizer, RewardScaler
from trpo_cli.errors import ConfigError
from trpo_cli.models.policies import Policy
from trpo_cli.ranges import Count, NonNegativeInt
from trpo_cli.samplers.paths import PathSampler, refuse_too_many
from trpo_cli.shards import Shards


class SinglePath(PathSampler):
    """Rollouts of `steps_per_iteration` environment steps, over all environments side by side."""

    def __init__(
        self,
        shards: Shards,
        environments: Sequence[Environments],
        normalizer: ObservationNormalizer,
        reward_scaler: RewardScaler,
        seed: int,
        *,
        steps_per_iteration: Count,
        sequence_length: Count | None = None,
        burn_in: NonNegativeInt = 0,
    ) -> None:
        """Raises `ConfigError` if the steps do not divide evenly among the environments, or do not fit into memory."""
        num_envs = shards.count * environments[0].num_envs
        if steps_per_iteration % num_envs:
            near = max(1, round(steps_per_iteration / num_envs)) * num_envs
            raise ConfigError(
                f"sampler.steps_per_iteration: {steps_per_iteration} is not a multiple of "
                f"sampler.num_envs = {num_envs}; {near} is"
            )
        refuse_too_many(steps_per_iteration, shards, environments[0].spec, normalizer)
        own = (shards, environments, normalizer, reward_scaler, seed)
        super().__init__(*own, steps_per_iteration // num_envs, sequence_length, burn_in)

    def collect(self, policy: Policy) -> Sequence[Rollout]:
        followed = self.follow(policy)
        rollouts = self.make_rollouts(followed)
        self.learn_scale(followed)
        return rollouts
