"""Whole episodes of many candidates, for methods that learn only from returns.

All candidates of a generation play the same episodes: the same initial states, the same random numbers inside the
environment and, if actions are sampled, the same noise at the same time (common random numbers; PEGASUS, Ng & Jordan
2000). They therefore differ in what they do rather than in luck, and a return depends neither on the number of
environments nor on which of them played it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trpo_cli.envs.environments import Environments
from trpo_cli.envs.global_generators import refuse_use
from trpo_cli.envs.infos import Infos
from trpo_cli.envs.normalize import ObservationNormalizer, Summary
from trpo_cli.errors import EnvironmentFault
from trpo_cli.models.policies import Policy, on_cpu
from trpo_cli.ranges import Count
from trpo_cli.samplers import Sampler
from trpo_cli.samplers.acting import Acting
from trpo_cli.samplers.episodes import FinishedEpisodes
from trpo_cli.samplers.jobs import Jobs
from trpo_cli.seeding import environment_seeds, torch_generator
from trpo_cli.shards import Shards


class WholeEpisodes(Sampler):
    """`episodes_per_candidate` episodes of each candidate, over all environments side by side."""

    def __init__(
        self,
        shards: Shards,
        environments: Sequence[Environments],
        normalizer: ObservationNormalizer,
        seed: int,
        *,
        episodes_per_candidate: Count,
        max_episode_steps: Count,
        sample_actions: bool,
    ) -> None:
        self.shards, self.environments, self.normalizer = shards, environments, normalizer
        self.episodes_per_candidate, self.max_episode_steps = episodes_per_candidate, max_episode_steps
        self.sample_actions = sample_actions
        self.seed, self.generation = seed, 0
        self.episodes = FinishedEpisodes(environments[0].task.log_info)
        self.env_steps = 0

    def play(self, policy: Policy, thetas: Tensor) -> Tensor:
        """Return the mean return (C,) float64 of each candidate `thetas` (C, D), raw and undiscounted.

        Each shard plays its part of the candidates. Environments that wait for others to finish keep stepping; these
        steps are counted, and ignored otherwise.
        """
        shards, policy, each = self.shards, on_cpu(policy), self.episodes_per_candidate
        parts = thetas.float().tensor_split(shards.count)[shards.own.start : shards.own.stop]
        seeds = environment_seeds(self.seed, f"episodes of generation {self.generation}", each)
        generator = torch_generator(self.seed, f"actions of generation {self.generation}")
        times = self.max_episode_steps if self.sample_actions else 0
        noise = policy.distribution.noise((each, times), generator).numpy()
        tallies = [_Tally(len(part) * each, envs) for part, envs in zip(parts, self.environments, strict=True)]
        play = functools.partial(self._play, policy, seeds, noise)
        try:
            with refuse_use(shards.count, self.environments[0].task.id):
                shards.attempt(play, parts, tallies)
        except EnvironmentFault:
            self.env_steps += sum(shards.gather([one.env_steps for one in tallies]))
            raise
        told = [(one.returns, one.lengths, one.infos, one.env_steps, one.seen) for one in tallies]
        returns, lengths, infos, steps, seen = zip(*shards.gather(told), strict=True)
        self.env_steps += sum(steps)
        self.generation += 1
        joined = np.concatenate(returns)
        self.episodes.record(joined, np.concatenate(lengths), infos)
        if self.normalizer.enabled:
            self.normalizer.merge(filter(None, seen))
        return torch.from_numpy(joined.reshape(-1, each).mean(1))

    def _play(self, policy: Policy, seeds: list[int], noise: NDArray[Any], thetas: Tensor, tally: _Tally) -> None:
        """Play the episodes of one shard, which has none if there are fewer candidates than shards."""
        if not len(thetas):
            return
        envs, each = tally.environments, self.episodes_per_candidate
        jobs = Jobs(len(tally.returns), envs.num_envs)  # job j is episode j % each of candidate j // each
        total, age = np.zeros(envs.num_envs), np.zeros(envs.num_envs, dtype=np.int64)
        playing, raw = thetas[jobs.of // each], []
        acting = Acting(envs, self.normalizer, policy)
        acting.act = policy.actor_each(playing)
        acting.restart(np.ones(envs.num_envs, dtype=bool), [seeds[episode] for episode in jobs.of % each])
        while jobs.busy.any():
            if self.normalizer.enabled:
                raw.append(envs.observation[jobs.busy])
            step = acting.step(noise[jobs.of % each, age] if self.sample_actions else None)
            tally.env_steps += envs.num_envs
            total += step.reward
            age += 1
            ended = step.terminated | step.truncated | (age >= self.max_episode_steps)
            if not ended.any():
                continue
            finished = ended & jobs.busy
            tally.note(jobs.of[finished], total[finished], age[finished], envs.read_infos(finished))
            jobs.advance(np.flatnonzero(ended))
            total[ended], age[ended] = 0, 0
            playing[ended] = thetas[jobs.of[ended] // each]
            acting.act = policy.actor_each(playing)
            acting.restart(ended, [seeds[episode] for episode in jobs.of % each])
        if raw:
            tally.seen = self.normalizer.summarise(np.concatenate(raw))

    def metrics(self) -> dict[str, float | None]:
        return self.episodes.metrics()

    def state_dict(self) -> dict[str, Any]:
        return {
            "env_steps": self.env_steps,
            "generation": self.generation,
            "episodes": self.episodes.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.env_steps = state["env_steps"]
        self.generation = state["generation"]
        self.episodes.load_state_dict(state["episodes"])


class _Tally:
    """What became of the episodes of one shard."""

    def __init__(self, count: int, environments: Environments) -> None:
        self.environments, self.env_steps = environments, 0
        self.returns, self.lengths = np.zeros(count), np.zeros(count, dtype=np.int64)
        self.infos = {name: np.full(count, np.nan) for name in environments.task.log_info}
        self.seen: Summary | None = None  # of the raw observations, if a scale is learnt

    def note(self, jobs: Any, returns: Any, lengths: Any, infos: Infos) -> None:
        """Note how the episodes of these jobs (K,) ended."""
        self.returns[jobs], self.lengths[jobs] = returns, lengths
        for name, values in infos.items():
            self.infos[name][jobs] = values
