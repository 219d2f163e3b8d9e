"""Single path sampling (the TRPO paper, section 5.1): follow the policy, and keep what it sees and does."""

from __future__ import annotations

from trpo_cli.data import Sample
from trpo_cli.envs.environments import Environments
from trpo_cli.envs.normalize import ObservationNormalizer, RewardScaler
from trpo_cli.errors import ConfigError
from trpo_cli.models.policies import Policy
from trpo_cli.ranges import Count
from trpo_cli.samplers.paths import Paths, PathSampler, refuse_too_many
from trpo_cli.seeding import torch_generator


class SinglePath(PathSampler):
    """Rollouts of `steps_per_iteration` environment steps, over all environments side by side."""

    def __init__(
        self,
        environments: Environments,
        normalizer: ObservationNormalizer,
        reward_scaler: RewardScaler,
        seed: int,
        *,
        steps_per_iteration: Count,
    ) -> None:
        """Raises `ConfigError` if the steps do not divide evenly among the environments, or do not fit into memory."""
        num_envs = environments.num_envs
        if steps_per_iteration % num_envs:
            near = max(1, round(steps_per_iteration / num_envs)) * num_envs
            raise ConfigError(
                f"sampler.steps_per_iteration: {steps_per_iteration} is not a multiple of "
                f"sampler.num_envs = {num_envs}; {near} is"
            )
        refuse_too_many(steps_per_iteration, environments.spec, normalizer)
        self.horizon = steps_per_iteration // num_envs
        self.paths = Paths(environments, normalizer, reward_scaler, torch_generator(seed, "actions"))

    def collect(self, policy: Policy) -> Sample:
        rollout, raw = self.paths.follow(policy, self.horizon)
        self.paths.learn_scale(raw)
        return rollout
