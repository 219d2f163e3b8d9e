"""Paths of a policy through N environments, continued from one rollout to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from trpo_cli.data import ObservationSpec, Rollout
from trpo_cli.envs.environments import Environments
from trpo_cli.envs.normalize import ObservationNormalizer, RewardScaler
from trpo_cli.memory import refuse_oversized_batch
from trpo_cli.models.policies import Policy, on_cpu
from trpo_cli.samplers import PolicySampler
from trpo_cli.samplers.acting import Acting
from trpo_cli.samplers.episodes import EpisodeStatistics

BYTES = 26  # per step, in addition to its observation: noise, rewards, time and ends


class Paths:
    """Episodes in N environments, which continue from one call of `follow` to the next."""

    def __init__(
        self,
        environments: Environments,
        normalizer: ObservationNormalizer,
        reward_scaler: RewardScaler,
        generator: torch.Generator,
    ) -> None:
        """Actions are drawn from `generator`."""
        self.environments, self.normalizer, self.reward_scaler = environments, normalizer, reward_scaler
        self.generator = generator
        self.episodes = EpisodeStatistics(environments.num_envs, environments.task.log_info)
        self.env_steps = 0  # in total, including those of spoiled samples
        self.memory: np.ndarray | None = None  # (N, M), of the policy after the last step; None before the first

    def follow(
        self, policy: Policy, horizon: int, visit: Callable[[int, np.ndarray], None] | None = None
    ) -> tuple[Rollout, np.ndarray]:
        """Continue for `horizon` steps.

        Also returns the raw observations (T, N, O) for `learn_scale`, or none, (0, N, O), if no scale is learnt.
        `visit(t, memory)` is called before step t, with the memory (N, M) of the policy.
        """
        envs, places = self.environments, (horizon, self.environments.num_envs)
        raw = np.empty((horizon if self.normalizer.enabled else 0, *envs.observation.shape), envs.spec.dtype)
        observation = np.empty((*places, *envs.spec.shape), dtype=self.normalizer.dtype)
        reward = np.empty(places)
        terminated, truncated = np.empty(places, dtype=bool), np.empty(places, dtype=bool)
        noise = policy.distribution.noise(places, self.generator).numpy()
        acting = Acting(envs, self.normalizer, on_cpu(policy), self.memory)
        actions, cut_off, infos = [], [envs.observation[:0]], []
        for t in range(horizon):
            if visit is not None:
                visit(t, acting.memory)
            if len(raw):
                raw[t] = envs.observation
            step = acting.step(noise[t], out=observation[t])
            self.env_steps += envs.num_envs
            actions.append(step.action)
            reward[t], terminated[t], truncated[t] = step.reward, step.terminated, step.truncated
            ended = step.terminated | step.truncated
            if ended.any():
                cut_off.append(step.reached[step.truncated])
                infos.append(envs.read_infos(ended))
                acting.restart(ended)
        self.memory = acting.memory
        done = terminated | truncated
        time = self.episodes.add(reward, done, infos)
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

    def learn_scale(self, raw: np.ndarray) -> None:
        """Learn the scale of observations from the raw ones that `follow` returned."""
        if len(raw):
            self.normalizer.update(raw)

    def abandon(self) -> None:
        """Forget unfinished episodes."""
        self.memory = None
        self.episodes.abandon()
        self.reward_scaler.abandon()

    def state_dict(self) -> dict[str, Any]:
        memory = {} if self.memory is None or not self.memory.size else {"memory": torch.from_numpy(self.memory)}
        return {
            "env_steps": self.env_steps,
            "generator": self.generator.get_state(),
            "episodes": self.episodes.state_dict(),
            **memory,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.env_steps = state["env_steps"]
        self.generator.set_state(state["generator"])
        self.episodes.load_state_dict(state["episodes"])
        self.memory = state["memory"].numpy().copy() if "memory" in state else None


class PathSampler(PolicySampler):
    """A sampler whose state is that of its paths."""

    paths: Paths

    @property
    def env_steps(self) -> int:  # type: ignore[override]
        return self.paths.env_steps

    def metrics(self) -> dict[str, float | None]:
        return self.paths.episodes.metrics()

    def abandon(self) -> None:
        self.paths.abandon()

    def state_dict(self) -> dict[str, Any]:
        return self.paths.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.paths.load_state_dict(state)


def refuse_too_many(steps: int, spec: ObservationSpec, normalizer: ObservationNormalizer) -> None:
    """Raise `ConfigError` if a batch of this many steps can never fit into memory."""
    numbers = normalizer.dtype.itemsize + (spec.dtype.itemsize if normalizer.enabled else 0)
    refuse_oversized_batch(steps, BYTES + numbers * spec.size)
