"""Single path sampling (seed 004, section 1.4.1): follow the policy, and keep what it saw and did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from trpo_cli.data import Rollout, Sample
from trpo_cli.envs.environments import Environments
from trpo_cli.envs.make import Parallelism, Task, Vectorization
from trpo_cli.envs.normalize import ObservationNormalizer, RewardScaler
from trpo_cli.errors import ConfigError
from trpo_cli.memory import refuse_batch
from trpo_cli.models.policies import Policy, on_cpu
from trpo_cli.ranges import Count, UnitInterval
from trpo_cli.samplers import PolicySampler
from trpo_cli.samplers.episodes import EpisodeStatistics
from trpo_cli.seeding import environment_seeds, torch_generator
from trpo_cli.surrogates import Tries, importance_sampled

BYTES_A_NUMBER = 12  # of an observation: as it was, and as the policy saw it
BYTES = 26  # of each step beside: its noise, rewards, time and ends


class SinglePath(PolicySampler):
    """`steps_per_iteration` environment steps a rollout, over `num_envs` environments side by side."""

    tries = Tries.ONE
    in_process = False
    surrogate = staticmethod(importance_sampled)

    def __init__(
        self,
        task: Task,
        seed: int,
        gamma: UnitInterval,
        *,
        num_envs: Count,
        steps_per_iteration: Count,
        vectorization: Vectorization,
        num_threads: Count | None,
    ) -> None:
        """Make and reset the environments. `gamma` is for the scale of the rewards.

        Raises `ConfigError` if the steps do not divide evenly among the environments.
        """
        if steps_per_iteration % num_envs:
            near = max(1, round(steps_per_iteration / num_envs)) * num_envs
            raise ConfigError(
                f"sampler.steps_per_iteration: {steps_per_iteration} is not a multiple of "
                f"sampler.num_envs = {num_envs}; {near} is"
            )
        seeds = environment_seeds(seed, "environments", num_envs)
        parallelism = Parallelism(vectorization, num_threads, self.in_process)
        self.environments = Environments(task, num_envs, seeds, parallelism)
        self.horizon = steps_per_iteration // num_envs
        self.generator = torch_generator(seed, "actions")
        size = self.environments.observation_size
        self.normalizer = ObservationNormalizer(size, task.normalize_observation, task.observation_clip)
        self.reward_scaler = RewardScaler(num_envs, gamma, task.normalize_reward, task.reward_clip)
        self.episodes = EpisodeStatistics(num_envs)
        self.env_steps = 0
        self._refuse_too_many(steps_per_iteration)

    def _refuse_too_many(self, steps: int) -> None:
        """Raise `ConfigError` if the batches would never fit into memory."""
        try:
            refuse_batch(steps, BYTES + BYTES_A_NUMBER * self.environments.observation_size)
        except ConfigError:
            self.environments.close()
            raise

    def collect(self, policy: Policy) -> Sample:
        rollout, raw = self.follow(policy)
        self.normalizer.update(raw)
        return rollout

    def follow(self, policy: Policy, visit: Callable[[int], None] | None = None) -> tuple[Rollout, np.ndarray]:
        """Play on; the raw observations (T, N, O) too. `visit(t)` is called before each step, to look around."""
        envs, places = self.environments, (self.horizon, self.environments.num_envs)
        raw = np.empty((*places, envs.observation_size))
        observation = np.empty(raw.shape, dtype=np.float32)
        reward = np.empty(places)
        terminated, truncated = np.empty(places, dtype=bool), np.empty(places, dtype=bool)
        act, noise = on_cpu(policy).actor(), policy.distribution.noise(places, self.generator).numpy()
        actions, cut_off = [], [raw[0, :0]]
        for t in range(self.horizon):
            if visit is not None:
                visit(t)
            raw[t] = envs.observation
            self.normalizer(raw[t], out=observation[t])
            actions.append(act(observation[t], noise[t]))
            reached, reward[t], terminated[t], truncated[t] = envs.step(actions[t])
            self.env_steps += envs.num_envs
            ended = terminated[t] | truncated[t]
            if ended.any():
                cut_off.append(reached[truncated[t]])
                envs.restart(ended)
        done = terminated | truncated
        time = self.episodes.add(reward, done)
        rollout = Rollout(
            observation=torch.from_numpy(observation),
            action=torch.from_numpy(np.stack(actions)),
            reward=torch.from_numpy(self.reward_scaler(reward, done)).float(),
            terminated=torch.from_numpy(terminated),
            truncated=torch.from_numpy(truncated),
            time=torch.from_numpy(time),
            truncated_observation=torch.from_numpy(self.normalizer(np.concatenate(cut_off))),
            last_observation=torch.from_numpy(self.normalizer(envs.observation)),
        )
        return rollout, raw

    def metrics(self, policy: Policy) -> dict[str, float | None]:
        return {"env_steps": float(self.env_steps), **self.episodes.metrics()}

    def recover(self, seeds: list[int]) -> None:
        super().recover(seeds)
        self.episodes.abandon()
        self.reward_scaler.abandon()

    def state_dict(self) -> dict[str, Any]:
        return {
            "env_steps": self.env_steps,
            "generator": self.generator.get_state(),
            "normalizer": self.normalizer.state_dict(),
            "reward_scaler": self.reward_scaler.state_dict(),
            "episodes": self.episodes.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.env_steps = state["env_steps"]
        self.generator.set_state(state["generator"])
        self.normalizer.load_state_dict(state["normalizer"])
        self.reward_scaler.load_state_dict(state["reward_scaler"])
        self.episodes.load_state_dict(state["episodes"])
