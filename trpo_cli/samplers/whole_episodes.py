"""Whole episodes of many candidates, for methods that learn only from returns.

All candidates of a generation play the same episodes: the same initial states, the same random numbers inside the
environment and, if actions are sampled, the same noise at the same time (common random numbers; PEGASUS, Ng & Jordan
2000). They therefore differ in what they do rather than in luck, and a return depends neither on the number of
environments nor on which of them played it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from trpo_cli.envs.environments import Environments
from trpo_cli.envs.normalize import ObservationNormalizer
from trpo_cli.models.policies import Policy, on_cpu
from trpo_cli.ranges import Count
from trpo_cli.samplers import Sampler
from trpo_cli.samplers.acting import Acting
from trpo_cli.samplers.episodes import FinishedEpisodes
from trpo_cli.samplers.jobs import Jobs
from trpo_cli.seeding import environment_seeds, torch_generator


class WholeEpisodes(Sampler):
    """`episodes_per_candidate` episodes of each candidate, over all environments side by side."""

    def __init__(
        self,
        environments: Environments,
        normalizer: ObservationNormalizer,
        seed: int,
        *,
        episodes_per_candidate: Count,
        max_episode_steps: Count,
        sample_actions: bool,
    ) -> None:
        self.environments, self.normalizer = environments, normalizer
        self.episodes_per_candidate, self.max_episode_steps = episodes_per_candidate, max_episode_steps
        self.sample_actions = sample_actions
        self.seed, self.generation = seed, 0
        self.episodes = FinishedEpisodes(environments.task.log_info)
        self.env_steps = 0

    def play(self, policy: Policy, thetas: Tensor) -> Tensor:
        """Return the mean return (C,) float64 of each candidate `thetas` (C, D), raw and undiscounted.

        Environments that wait for others to finish keep stepping; these steps are counted, and ignored otherwise.
        """
        envs, each, count = self.environments, self.episodes_per_candidate, len(thetas) * self.episodes_per_candidate
        thetas, policy = thetas.float(), on_cpu(policy)
        seeds = environment_seeds(self.seed, f"episodes of generation {self.generation}", each)
        generator = torch_generator(self.seed, f"actions of generation {self.generation}")
        times = self.max_episode_steps if self.sample_actions else 0
        noise = policy.distribution.noise((each, times), generator).numpy()
        returns, lengths, raw = np.zeros(count), np.zeros(count, dtype=np.int64), []
        infos = {name: np.full(count, np.nan) for name in envs.task.log_info}

        jobs = Jobs(count, envs.num_envs)  # job j is episode j % each of candidate j // each
        total, age = np.zeros(envs.num_envs), np.zeros(envs.num_envs, dtype=np.int64)
        playing = thetas[jobs.of // each]
        acting = Acting(envs, self.normalizer, policy)
        acting.act = policy.actor_each(playing)
        acting.restart(np.ones(envs.num_envs, dtype=bool), [seeds[episode] for episode in jobs.of % each])
        while jobs.busy.any():
            if self.normalizer.enabled:
                raw.append(envs.observation[jobs.busy])
            step = acting.step(noise[jobs.of % each, age] if self.sample_actions else None)
            self.env_steps += envs.num_envs
            total += step.reward
            age += 1
            ended = step.terminated | step.truncated | (age >= self.max_episode_steps)
            if not ended.any():
                continue
            finished = ended & jobs.busy
            returns[jobs.of[finished]], lengths[jobs.of[finished]] = total[finished], age[finished]
            for name, values in envs.read_infos(finished).items():
                infos[name][jobs.of[finished]] = values
            jobs.advance(np.flatnonzero(ended))
            total[ended], age[ended] = 0, 0
            playing[ended] = thetas[jobs.of[ended] // each]
            acting.act = policy.actor_each(playing)
            acting.restart(ended, [seeds[episode] for episode in jobs.of % each])

        self.generation += 1
        self.episodes.record(returns, lengths, [infos])
        if self.normalizer.enabled:
            self.normalizer.update(np.concatenate(raw))
        return torch.from_numpy(returns.reshape(-1, each).mean(1))

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
