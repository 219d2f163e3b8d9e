"""Paths of a policy through N environments, continued from one rollout to the next."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trpo_cli.data import Frames, Observations, ObservationSpec, Rollout
from trpo_cli.envs.environments import Environments
from trpo_cli.envs.infos import Infos
from trpo_cli.envs.normalize import ObservationNormalizer, RewardScaler
from trpo_cli.memory import refuse_oversized_batch
from trpo_cli.models.policies import Policy, on_cpu
from trpo_cli.samplers import PolicySampler
from trpo_cli.samplers.acting import Acting
from trpo_cli.samplers.episodes import EpisodeStatistics, ages

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
        self.life = np.zeros(environments.num_envs, dtype=np.int64)  # steps since an episode of the learner began

    def follow(
        self, policy: Policy, horizon: int, visit: Callable[[int, np.ndarray], None] | None = None
    ) -> tuple[Rollout, np.ndarray]:
        """Continue for `horizon` steps.

        Also returns the raw observations (T, N, O) for `learn_scale`, or none, (0, N, O), if no scale is learnt.
        `visit(t, memory)` is called before step t, with the memory (N, M) of the policy.
        """
        envs, places = self.environments, (horizon, self.environments.num_envs)
        raw = np.empty((horizon if self.normalizer.enabled else 0, *envs.observation.shape), envs.spec.dtype)
        seen = Seen(horizon, envs, self.normalizer)
        reward = np.empty(places)
        terminated, truncated, lost = (np.empty(places, dtype=bool) for _ in range(3))
        noise = policy.distribution.noise(places, self.generator).numpy()
        acting = Acting(envs, self.normalizer, on_cpu(policy), self.memory)
        action = np.empty((0,))
        cut_off, infos = [envs.observation[:0].copy()], []
        for t in range(horizon):
            if visit is not None:
                visit(t, acting.memory)
            if len(raw):
                raw[t] = envs.observation
            step = acting.step(noise[t], out=seen.place(t))
            self.env_steps += envs.num_envs
            if t == 0:  # a small array kept from each step would lie between large ones, and the heap would grow
                action = np.empty((horizon, *step.action.shape), dtype=step.action.dtype)
            action[t] = step.action
            reward[t], terminated[t], truncated[t], lost[t] = step.reward, step.terminated, step.truncated, step.lost
            ended = step.terminated | step.truncated
            if ended.any():
                if (step.truncated & ~step.lost).any():
                    cut_off.append(step.reached[step.truncated & ~step.lost])
                infos.append(envs.read_infos(ended))
                acting.restart(ended)
        self.memory = acting.memory
        done = terminated | truncated
        age, time = self._note_episodes(reward, done, lost, infos)
        rollout = Rollout(
            observation=seen.observations(age),
            action=torch.from_numpy(action),
            reward=torch.from_numpy(self.reward_scaler(reward, done | lost)).float(),
            terminated=torch.from_numpy(terminated | lost),
            truncated=torch.from_numpy(truncated & ~lost),
            time=torch.from_numpy(time),
            truncated_observation=torch.from_numpy(self.normalizer(np.concatenate(cut_off))),
            last_observation=torch.from_numpy(self.normalizer(envs.observation)),
        )
        return rollout, raw

    def _note_episodes(
        self, reward: np.ndarray, done: np.ndarray, lost: np.ndarray, infos: list[Infos]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Add T steps to the statistics; return how old episodes were before each (T, N), and those of the learner."""
        age, time = ages(done, self.episodes.running_length), ages(done | lost, self.life)
        self.life = time[-1].copy()
        self.episodes.add(reward, done, infos)
        return age[:-1], time[:-1]

    def learn_scale(self, raw: np.ndarray) -> None:
        """Learn the scale of observations from the raw ones that `follow` returned."""
        if len(raw):
            self.normalizer.update(raw)

    def abandon(self) -> None:
        """Forget unfinished episodes."""
        self.memory = None
        self.episodes.abandon()
        self.life[:] = 0
        self.reward_scaler.abandon()

    def state_dict(self) -> dict[str, Any]:
        memory = {} if self.memory is None or not self.memory.size else {"memory": torch.from_numpy(self.memory)}
        whole = (self.life == self.episodes.running_length).all()  # no life was lost in these episodes
        return {
            "env_steps": self.env_steps,
            "generator": self.generator.get_state(),
            "episodes": self.episodes.state_dict(),
            **memory,
            **({} if whole else {"life": self.life.tolist()}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.env_steps = state["env_steps"]
        self.generator.set_state(state["generator"])
        self.episodes.load_state_dict(state["episodes"])
        self.memory = state["memory"].numpy().copy() if "memory" in state else None
        self.life = np.array(state.get("life", state["episodes"]["running_length"]), dtype=np.int64)


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


class Seen:
    """What a policy sees in T steps of N environments: in stacks of images, each frame is kept once."""

    def __init__(self, horizon: int, environments: Environments, normalizer: ObservationNormalizer) -> None:
        spec, self._environments = environments.spec, environments
        self._older = spec.stack - 1 if shares_frames(spec, normalizer) else 0  # frames from before the first step
        shape = spec.newest if self._older else spec.shape
        self._kept: np.ndarray = np.empty(
            (self._older + horizon, environments.num_envs, *shape), dtype=normalizer.dtype
        )
        if self._older:
            self._kept[: self._older] = environments.observation[:, :-1].swapaxes(0, 1)

    def place(self, t: int) -> np.ndarray | None:
        """Return where to write what is seen at time t (N, O); None if the newest frames are all that is new of it."""
        if not self._older:
            return self._kept[t]  # type: ignore[no-any-return]
        self._kept[self._older + t] = self._environments.observation[:, -1]
        return None

    def observations(self, age: NDArray[np.int64]) -> Observations:
        """All of it (T, N, O), given how many steps each episode had behind it (T, N)."""
        kept = torch.from_numpy(self._kept)
        if not self._older:
            return kept
        horizon, num_envs = age.shape
        now = self._older + torch.arange(horizon)[:, None, None]
        first = now - torch.from_numpy(age)[..., None]  # no stack reaches beyond it
        times = torch.maximum(now + torch.arange(-self._older, 1), first)
        return Frames(kept.flatten(0, 1), times * num_envs + torch.arange(num_envs)[:, None])


def shares_frames(spec: ObservationSpec, normalizer: ObservationNormalizer) -> bool:
    """Whether stacks share their frames; a normaliser has a scale of its own for each place in a stack."""
    return spec.stack > 1 and spec.is_image and not normalizer.enabled


def refuse_too_many(steps: int, spec: ObservationSpec, normalizer: ObservationNormalizer) -> None:
    """Raise `ConfigError` if a batch of this many steps can never fit into memory."""
    numbers = normalizer.dtype.itemsize + (spec.dtype.itemsize if normalizer.enabled else 0)
    size = math.prod(spec.newest) if shares_frames(spec, normalizer) else spec.size
    refuse_oversized_batch(steps, BYTES + numbers * size)
