"""Vine sampling (seed 004, section 1.4.2; the TRPO paper, section 5.2): trunks, and branches that try several actions
in the same state.

A trunk is followed as a single path. From `num_states` states chosen uniformly along the trunks (the rollout set),
K branches each begin with an action of their own and go on with the policy; the discounted return of a branch estimates
Q of its first action. Branches run in the environments of the trunks: those are put aside, and put back afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trpo_cli.data import Advantage, Estimates, Predict, Rollout, Sample, Tensors, Visited
from trpo_cli.envs import global_generators
from trpo_cli.envs.make import Task
from trpo_cli.errors import ConfigError
from trpo_cli.models.distributions import Categorical
from trpo_cli.models.policies import Policy, on_cpu
from trpo_cli.ranges import Count, UnitInterval
from trpo_cli.returns import monte_carlo
from trpo_cli.samplers.jobs import Jobs
from trpo_cli.samplers.single_path import SinglePath
from trpo_cli.surrogates import Tries, self_normalised

MOST_ACTIONS = 1024  # of a discrete set, where every one is to be tried


@dataclass(frozen=True)
class Branches(Tensors, Sample):
    """What the branches of S states, K each, came to."""

    trunk: Rollout
    branch: Rollout  # (L, S * K): those of one state are neighbours; zero after a branch has ended
    log_weight: Tensor  # (S, K), log pi_old(a|s) - log q(a|s) of the first actions

    @property
    def size(self) -> int:  # type: ignore[override]
        return self.trunk.size + self.branch.size

    def estimate(
        self, predict: Predict, advantage: Advantage, gamma: float, discount: float
    ) -> tuple[Estimates, Visited]:
        """Q of a first action is the discounted return of its branch; a critic, if there is one, closes what was cut
        off, and learns from the trunks by `advantage`."""
        branch, (states, actions) = self.branch, self.log_weight.shape
        value, next_value = branch.values(predict)
        q = monte_carlo(branch.reward, value, next_value, branch.terminated, branch.truncated, gamma)[0] + value[0]
        q = q.view(states, actions)
        state_value = (self.log_weight.softmax(-1) * q).sum(-1)
        estimates = Estimates(
            observation=branch.observation[0, ::actions],
            action=branch.action[0].view(states, actions, -1),
            advantage=q - value[0].view(states, actions),
            return_=state_value,
            weight=discount ** branch.time[0, ::actions].to(q.dtype),
            log_weight=self.log_weight,
        )
        return estimates, self.trunk.advantages(predict, advantage, gamma)[1]


class Vine(SinglePath):
    """Trunks of `num_envs` environments; every step of trunks and branches counts."""

    tries = Tries.SEVERAL
    in_process = True
    surrogate = staticmethod(self_normalised)

    def __init__(
        self,
        task: Task,
        seed: int,
        gamma: UnitInterval,
        *,
        num_envs: Count,
        steps_per_iteration: Count,
        num_states: Count,
        actions_per_state: Count | Literal["all"],
        branch_length: Count,
        proposal: Literal["policy", "uniform"] | None,
        common_random_numbers: bool,
        vectorization: Literal["auto", "native", "sync"],
        num_threads: Count | None,
    ) -> None:
        """`steps_per_iteration` is for trunks and branches together; where episodes end early, it takes less.

        Raises `ConfigError` if nothing is left for the trunks, or the environments cannot be saved and restored.
        """
        super().__init__(
            task,
            seed,
            gamma,
            num_envs=num_envs,
            steps_per_iteration=num_envs,
            vectorization=vectorization,
            num_threads=num_threads,
        )
        obstacle = self.environments.snapshot_obstacle()
        if obstacle is not None:
            self.environments.close()
            raise ConfigError(f"sampler: vine has to save and restore {task.id}, and cannot: {obstacle}")
        self.every_action = self._every_action(actions_per_state, proposal, task.id)
        self.actions_per_state = len(self.every_action) if actions_per_state == "all" else actions_per_state
        if actions_per_state == "all":
            self.tries = Tries.ALL
        elif actions_per_state == 1:
            self.tries = Tries.ONE
        self.num_states, self.branch_length = num_states, branch_length
        self.common_random_numbers = common_random_numbers
        self.horizon = self._trunk_length(steps_per_iteration)
        self._refuse_too_many(self.horizon * num_envs)  # trunks alone: branches may end early

    def _trunk_length(self, steps_per_iteration: int) -> int:
        """What the branches leave for each trunk. Raises `ConfigError` if that is too little to choose states from."""
        num_envs, num_states = self.environments.num_envs, self.num_states
        # Environments without a branch step on while others have one: what they do counts.
        rounds = -(-num_states * self.actions_per_state // num_envs)
        branch_steps = rounds * num_envs * self.branch_length
        length = (steps_per_iteration - branch_steps) // num_envs
        if length * num_envs < num_states:
            needed = branch_steps + num_envs * -(-num_states // num_envs)
            raise ConfigError(
                f"sampler.steps_per_iteration: {steps_per_iteration} leaves the trunks fewer than num_states = "
                f"{num_states} steps, since the branches may take {branch_steps}; at least {needed} is needed"
            )
        return length

    def _every_action(self, actions_per_state: int | str, proposal: str | None, env_id: str) -> Tensor:
        """The actions (M, A) that a uniform proposal draws from; none where the policy itself proposes."""
        distribution = self.environments.distribution
        wants_all = actions_per_state == "all"
        if not isinstance(distribution, Categorical):
            if wants_all or proposal == "uniform":
                key = "actions_per_state: all" if wants_all else "proposal: uniform"
                raise ConfigError(f"sampler.{key} is for discrete actions, and those of {env_id} are not")
            return torch.empty(0, distribution.network_size)
        if proposal == "policy" and not wants_all:
            return torch.empty(0, len(distribution.sizes), dtype=torch.int64)
        count = int(np.prod(distribution.sizes, dtype=np.float64).clip(max=2**62))
        if count > MOST_ACTIONS:
            raise ConfigError(
                f"sampler.proposal: {env_id} has {count} actions, and at most {MOST_ACTIONS} are proposed uniformly; "
                "sampler.proposal=policy draws from the policy"
            )
        return torch.cartesian_prod(*(torch.arange(size) for size in distribution.sizes)).view(count, -1)

    def collect(self, policy: Policy) -> Sample:
        envs, policy = self.environments, on_cpu(policy)
        places = torch.randperm(self.horizon * envs.num_envs, generator=self.generator)[: self.num_states]
        times, rows = np.divmod(places.sort().values.numpy(), envs.num_envs)
        states: list[Any] = []
        trunk, raw = self.follow(policy, visit=lambda t: states.extend(envs.save(rows[times == t])))
        first, log_weight = self._first_actions(policy, trunk.observation[times, rows])
        everywhere = np.arange(envs.num_envs)
        aside, before = envs.save(everywhere), global_generators.states()
        branch = self._branches(policy, states, first)
        if drawn := global_generators.drawn(before):
            raise ConfigError(
                f"sampler: vine has to save and restore {envs.task.id}, and cannot: its steps draw from "
                f"{' and '.join(drawn)}, whose generator all environments share; self.np_random is each one's own"
            )
        envs.restore(everywhere, aside)
        branch = replace(branch, time=branch.time + trunk.time[times, rows].repeat_interleave(self.actions_per_state))
        self.normalizer.update(raw)
        return Branches(trunk, branch, log_weight)

    @torch.no_grad()
    def _first_actions(self, policy: Policy, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Actions (S, K, A) from the proposal, and log pi_old / q (S, K)."""
        distribution, shape = policy.distribution, (self.num_states, self.actions_per_state)
        parameters = policy.infer(observation)
        if self.tries is Tries.ALL:
            action = self.every_action.expand(self.num_states, -1, -1)
        elif len(self.every_action):
            action = self.every_action[torch.randint(len(self.every_action), shape, generator=self.generator)]
        else:
            noise = distribution.noise(shape, self.generator).flatten(0, 1)
            repeated = parameters.repeat_interleave(self.actions_per_state, dim=0)
            return distribution.sample(repeated, noise).view(*shape, -1), torch.zeros(shape)
        log_q = -np.log(len(self.every_action))
        return action, distribution.log_prob(parameters[:, None], action) - log_q

    def _branches(self, policy: Policy, states: list[Any], first: Tensor) -> Rollout:
        """Run every branch to its end or `branch_length`, as many at a time as there are environments."""
        envs, tries, length = self.environments, self.actions_per_state, self.branch_length
        count, common = self.num_states * tries, self.common_random_numbers
        act = policy.actor()
        noise = policy.distribution.noise((length, self.num_states if common else count), self.generator).numpy()
        seeds = torch.randint(2**31, (self.num_states if common else count,), generator=self.generator).numpy()
        first_action = first.flatten(0, 1).numpy()
        observation = np.zeros((length, count, envs.observation_size), dtype=np.float32)
        action = np.zeros((length, *first_action.shape), dtype=first_action.dtype)
        reward = np.zeros((length, count))
        terminated, truncated = np.zeros((length, count), dtype=bool), np.zeros((length, count), dtype=bool)
        last = np.zeros((count, envs.observation_size))

        jobs, age = Jobs(count, envs.num_envs), np.zeros(envs.num_envs, dtype=np.int64)
        stream = np.arange(count) // (tries if common else 1)  # of each branch: where its noise and its seed lie

        def begin(rows: NDArray[np.int64]) -> None:
            envs.restore(rows, [states[job // tries] for job in jobs.of[rows]])
            envs.reseed(rows, seeds[stream[jobs.of[rows]]].tolist())
            age[rows] = 0

        begin(np.arange(envs.num_envs))
        while jobs.busy.any():
            seen, fresh, busy = self.normalizer(envs.observation), age == 0, jobs.busy
            chosen = act(seen, noise[age, stream[jobs.of]])
            chosen[fresh] = first_action[jobs.of[fresh]]
            reached, paid, over, cut = envs.step(chosen)
            self.env_steps += envs.num_envs
            at = age[busy], jobs.of[busy]
            observation[at], action[at], reward[at] = seen[busy], chosen[busy], paid[busy]
            terminated[at], truncated[at] = over[busy], cut[busy]
            last[jobs.of[busy]] = reached[busy]
            age += 1
            ended = np.flatnonzero(over | cut | (age == length))
            if len(ended):
                jobs.advance(ended)
                begin(ended)
        return Rollout(
            observation=torch.from_numpy(observation),
            action=torch.from_numpy(action),
            reward=torch.from_numpy(self.reward_scaler.scaled(reward)).float(),
            terminated=torch.from_numpy(terminated),
            truncated=torch.from_numpy(truncated),
            time=torch.arange(length)[:, None].expand(length, count),
            truncated_observation=torch.from_numpy(self.normalizer(last[np.nonzero(truncated)[1]])),
            last_observation=torch.from_numpy(self.normalizer(last)),
        )
