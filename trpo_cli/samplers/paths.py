"""Paths of a policy through the environments of each shard, continued from one rollout to the next."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from trpo_cli.data import ObservationSpec, Remembered, Rollout
from trpo_cli.envs.environments import Environments
from trpo_cli.envs.global_generators import refuse_use
from trpo_cli.envs.infos import Infos
from trpo_cli.envs.normalize import ObservationNormalizer, RewardScaler
from trpo_cli.errors import ConfigError, EnvironmentFault
from trpo_cli.memory import refuse_oversized_batch
from trpo_cli.models.policies import Policy, on_cpu
from trpo_cli.samplers import PolicySampler
from trpo_cli.samplers.acting import Acting
from trpo_cli.samplers.episodes import EpisodeStatistics, ages
from trpo_cli.samplers.seen import Seen, shares_frames
from trpo_cli.seeding import torch_generator
from trpo_cli.shards import Shards

R = TypeVar("R")
Visit = Callable[[int], None]
BYTES = 26  # per step, in addition to its observation: noise, rewards, time and ends


class Path:
    """Episodes in N environments of one shard, which continue from one call of `follow` to the next."""

    def __init__(
        self, environments: Environments, normalizer: ObservationNormalizer, generator: torch.Generator
    ) -> None:
        """Actions are drawn from `generator`."""
        self.environments, self.normalizer, self.generator = environments, normalizer, generator
        self.env_steps = 0  # since the last count, including those of spoiled samples
        self.memory: np.ndarray | None = None  # (N, M), of the policy after the last step; None before the first

    def follow(self, policy: Policy, horizon: int, visit: Visit | None = None) -> Segment:
        """Continue for `horizon` steps. `visit(t)` is called before step t."""
        envs, places = self.environments, (horizon, self.environments.num_envs)
        raw = np.empty((horizon if self.normalizer.enabled else 0, *envs.observation.shape), envs.spec.dtype)
        seen = Seen(horizon, envs, self.normalizer)
        reward = np.empty(places)
        terminated, truncated, lost = (np.empty(places, dtype=bool) for _ in range(3))
        noise = policy.distribution.noise(places, self.generator).numpy()
        acting = Acting(envs, self.normalizer, policy, self.memory)
        memory = np.empty((horizon, *acting.memory.shape), dtype=acting.memory.dtype)
        action = np.empty((0,))
        cut_off, remembered, infos = [envs.observation[:0].copy()], [acting.memory[:0]], []
        for t in range(horizon):
            if visit is not None:
                visit(t)
            memory[t] = acting.memory
            if len(raw):
                raw[t] = envs.observation
            step = acting.step(noise[t], out=seen.place(t))
            self.env_steps += envs.num_envs
            if t == 0:  # a small array kept from each step would lie between large ones, and the heap would grow
                action = np.empty((horizon, *step.action.shape), dtype=step.action.dtype)
            action[t] = step.action
            reward[t], terminated[t], truncated[t], lost[t] = step.reward, step.terminated, step.truncated, step.lost
            ended = step.terminated | step.truncated
            if np.count_nonzero(ended):  # `any` takes ten times as long
                if (step.truncated & ~step.lost).any():
                    cut_off.append(step.reached[step.truncated & ~step.lost])
                    remembered.append(acting.memory[step.truncated & ~step.lost])
                infos.append(envs.read_infos(ended))
                acting.restart(ended)
        self.memory = acting.memory
        told = Feedback(reward, terminated, truncated, lost, infos)
        carried = Carried(memory, np.concatenate(remembered), acting.memory.copy())
        return Segment(seen, action, told, np.concatenate(cut_off), envs.observation.copy(), raw, carried)


class Feedback(NamedTuple):
    """What environments say in T steps, apart from what they show."""

    reward: np.ndarray  # (T, N)
    terminated: np.ndarray  # (T, N)
    truncated: np.ndarray  # (T, N), never where terminated
    lost: np.ndarray  # (T, N), where a life was lost
    infos: list[Infos]  # of episodes that ended

    @classmethod
    def join(cls, parts: Sequence[Feedback]) -> Feedback:
        """Put environments side by side."""
        if len(parts) == 1:
            return parts[0]
        *columns, infos = zip(*parts, strict=True)
        reward, terminated, truncated, lost = (np.concatenate(column, axis=1) for column in columns)
        return cls(reward, terminated, truncated, lost, [one for some in infos for one in some])


class Carried(NamedTuple):
    """What a policy remembers in T steps of N environments."""

    memory: np.ndarray  # (T, N, M), before each step
    at_truncation: np.ndarray  # (X, M), where episodes were cut off
    at_end: np.ndarray  # (N, M)


class Segment(NamedTuple):
    """T steps of N environments of one shard."""

    seen: Seen
    action: np.ndarray  # (T, N, A)
    told: Feedback
    cut_off: np.ndarray  # (M, O), the raw observations where episodes were cut off
    last: np.ndarray  # (N, O), the raw ones after the last step
    raw: np.ndarray  # (T, N, O) for `learn_scale`, or none, (0, N, O), if no scale is learnt
    carried: Carried


class PathSampler(PolicySampler):
    """Follows a policy in the environments of each shard; statistics are those of all shards."""

    carries_memory = True

    def __init__(
        self,
        shards: Shards,
        environments: Sequence[Environments],
        normalizer: ObservationNormalizer,
        reward_scaler: RewardScaler,
        seed: int,
        horizon: int,
        sequence_length: int | None,
        burn_in: int,
    ) -> None:
        """Of policies and critics that remember, sequences of `sequence_length` steps are learnt from, after `burn_in`.

        Raises `ConfigError` if a path of `horizon` steps does not have them.
        """
        if sequence_length is not None and horizon % sequence_length:
            whole = [number for number in range(1, horizon + 1) if horizon % number == 0]
            near = min(whole, key=lambda number: abs(number - sequence_length))
            raise ConfigError(
                f"sampler.sequence_length: {sequence_length} does not divide the {horizon} steps that an iteration "
                f"takes in each environment; {near} does"
            )
        self.horizon, self.sequence_length, self.burn_in = horizon, sequence_length or horizon, burn_in
        before = horizon - self.sequence_length  # steps, of the last sequence
        if burn_in > before:
            fits = f"at most {before} fit" if before else f"a sequence_length below {horizon} leaves some"
            raise ConfigError(
                f"sampler.burn_in: got {burn_in}, and an iteration takes {before} steps before the last sequence "
                f"in each environment; {fits}"
            )
        asked = {"sequence_length": sequence_length, "burn_in": burn_in}
        self.only_for_memory = [key for key, value in asked.items() if value]
        self.shards, self.normalizer, self.reward_scaler = shards, normalizer, reward_scaler
        streams = [f"actions of shard {number}" if shards.count > 1 else "actions" for number in shards.own]
        generators = [torch_generator(seed, stream) for stream in streams]
        self.paths = [Path(envs, normalizer, one) for envs, one in zip(environments, generators, strict=True)]
        self.num_envs = shards.count * environments[0].num_envs  # of all shards
        self.episodes = EpisodeStatistics(self.num_envs, environments[0].task.log_info)
        self.env_steps = 0  # in total, including those of spoiled samples
        self.life = np.zeros(self.num_envs, dtype=np.int64)  # steps since an episode of the learner began

    def follow(self, policy: Policy, visits: Sequence[Visit | None] | None = None) -> list[Segment]:
        """Continue the paths of this process, with a `visit` for each."""
        policy, horizon = on_cpu(policy), self.horizon
        return self.attempt(lambda path, visit: path.follow(policy, horizon, visit), visits or [None] * len(self.paths))

    def attempt(self, work: Callable[..., R], *columns: Sequence[Any]) -> list[R]:
        """Do the work with each path of this process, and count the steps that all shards take."""
        try:
            with refuse_use(self.shards.count, self.paths[0].environments.task.id):
                return self.shards.attempt(work, self.paths, *columns)
        except EnvironmentFault:
            self.count_steps()
            raise

    def count_steps(self) -> None:
        """Count the steps that all shards have taken."""
        self.env_steps += sum(self.shards.gather([path.env_steps for path in self.paths]))
        for path in self.paths:
            path.env_steps = 0

    def make_rollouts(self, followed: Sequence[Segment]) -> list[Rollout]:
        """Note the episodes of all shards, and return the rollouts of this process with scaled rewards."""
        told = Feedback.join(self.shards.gather([one.told for one in followed]))
        done = told.terminated | told.truncated
        age, time = ages(done, self.episodes.running_length), ages(done | told.lost, self.life)
        self.life = time[-1].copy()
        self.episodes.add(told.reward, done, told.infos)
        reward = self.reward_scaler(told.reward, done | told.lost)
        self.count_steps()
        return [
            self._make_rollout(one, age[:-1, place], time[:-1, place], reward[:, place])
            for one, place in zip(followed, self.shards.places(self.num_envs), strict=True)
        ]

    def _make_rollout(self, followed: Segment, age: np.ndarray, time: np.ndarray, reward: np.ndarray) -> Rollout:
        told, carried = followed.told, followed.carried
        remembered = Remembered(
            memory=torch.from_numpy(carried.memory),
            begins=torch.from_numpy(age == 0),
            at_truncation=torch.from_numpy(carried.at_truncation),
            at_end=torch.from_numpy(carried.at_end),
            length=self.sequence_length,
            burn_in=self.burn_in,
        )
        return Rollout(
            observation=followed.seen.observations(age),
            action=torch.from_numpy(followed.action),
            reward=torch.from_numpy(np.ascontiguousarray(reward)).float(),
            terminated=torch.from_numpy(told.terminated | told.lost),
            truncated=torch.from_numpy(told.truncated & ~told.lost),
            time=torch.from_numpy(np.ascontiguousarray(time)),
            truncated_observation=torch.from_numpy(self.normalizer(followed.cut_off)),
            last_observation=torch.from_numpy(self.normalizer(followed.last)),
            remembered=remembered if carried.memory.size else None,
        )

    def learn_scale(self, followed: Sequence[Segment]) -> None:
        """Learn the scale of observations from the raw ones of all shards."""
        if self.normalizer.enabled:
            self.normalizer.merge(self.shards.gather([self.normalizer.summarise(one.raw) for one in followed]))

    def metrics(self) -> dict[str, float | None]:
        return self.episodes.metrics()

    def abandon(self) -> None:
        for path in self.paths:
            path.memory = None
        self.episodes.abandon()
        self.life[:] = 0
        self.reward_scaler.abandon()

    def state_dict(self) -> dict[str, Any]:
        own = [(path.generator.get_state(), path.memory) for path in self.paths]
        generators, memories = zip(*self.shards.gather(own), strict=True)
        kept = [] if memories[0] is None or not memories[0].size else memories
        whole = (self.life == self.episodes.running_length).all()  # no life was lost in these episodes
        return {
            "env_steps": self.env_steps,
            **({"generator": generators[0]} if len(generators) == 1 else {"generators": list(generators)}),
            "episodes": self.episodes.state_dict(),
            **({"memory": torch.from_numpy(np.concatenate(kept))} if kept else {}),
            **({} if whole else {"life": self.life.tolist()}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.env_steps = state["env_steps"]
        generators = state["generators"] if self.shards.count > 1 else [state["generator"]]
        self.episodes.load_state_dict(state["episodes"])
        memory = state["memory"].numpy() if "memory" in state else np.empty((0, 0))
        places = self.shards.places(len(memory))
        for number, path, place in zip(self.shards.own, self.paths, places, strict=True):
            path.generator.set_state(generators[number])
            path.memory = memory[place].copy() if len(memory) else None
        self.life = np.array(state.get("life", state["episodes"]["running_length"]), dtype=np.int64)


def refuse_too_many(steps: int, shards: Shards, spec: ObservationSpec, normalizer: ObservationNormalizer) -> None:
    """Raise `ConfigError` if the part of this process in a batch of so many steps can never fit into memory."""
    numbers = normalizer.dtype.itemsize + (spec.dtype.itemsize if normalizer.enabled else 0)
    size = math.prod(spec.newest) if shares_frames(spec, normalizer) else spec.size
    refuse_oversized_batch(steps * len(shards.own) // shards.count, BYTES + numbers * size)
