"""Vine sampling (the TRPO paper, section 5.2): trunks, and branches that try several actions
in the same state.

A trunk is followed as a single path. From `num_states` states chosen uniformly along the trunks (the rollout set),
K branches each begin with an action of their own and go on with the policy; the discounted return of a branch estimates
Q of its first action. Branches run in the environments of the trunks: those are put aside, and put back afterwards.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trpo_cli.data import Advantage, Estimates, Observations, Predict, Rollout, Sample, Sequences, Tensors, Visited
from trpo_cli.envs import global_generators
from trpo_cli.envs.environments import Environments, Flags
from trpo_cli.envs.normalize import ObservationNormalizer, RewardScaler
from trpo_cli.errors import ConfigError
from trpo_cli.models.distributions import Categorical
from trpo_cli.models.policies import Policy, on_cpu
from trpo_cli.ranges import Count, NonNegativeInt
from trpo_cli.returns import monte_carlo
from trpo_cli.samplers.acting import Acting, Step
from trpo_cli.samplers.jobs import Jobs
from trpo_cli.samplers.paths import Path, PathSampler, refuse_too_many
from trpo_cli.shards import Shards

MOST_ACTIONS = 1024  # of a discrete set, where every one is to be tried


@dataclass(frozen=True)
class Branches(Tensors, Sample):
    """Trunks, and K branches from each of S of their states.

    A branch is L steps long, or shorter where an episode ended, with zeros after its end. Branches of one state are
    neighbours.
    """

    trunk: Rollout
    place: Tensor  # (S,) int64, of the states among the T * N of the trunk
    action: Tensor  # (S, K, A), with which the branches begin
    log_weight: Tensor  # (S, K), log pi_old(a|s) - log q(a|s) of these actions
    reward: Tensor  # (L, S * K)
    terminated: Tensor  # (L, S * K) bool
    truncated: Tensor  # (L, S * K) bool
    last_observation: Tensor  # (S * K, O), what the last step of each branch led to
    last_memory: Tensor  # (S * K, M), with which that is seen

    def estimate(
        self, predict: Predict, advantage: Advantage, gamma: float, discount: float
    ) -> tuple[Estimates, Visited]:
        """Estimate Q of each first action by the discounted return of its branch.

        The critic, if there is one, gives the value of branches that were cut off, and learns from the trunks by
        `advantage`.
        """
        _, visited = self.trunk.advantages(predict, advantage, gamma)
        observation, time = self.trunk.states_at(self.place), self.trunk.time.flatten()[self.place]
        last: Observations = self.last_observation
        if self.trunk.remembered is not None:
            last = Sequences.of_single_steps(self.last_observation, self.last_memory)
        q = self.returns(predict(last), gamma).view_as(self.log_weight)
        estimates = Estimates(
            observation=observation,
            action=self.action,
            advantage=q - predict(observation)[:, None],
            return_=(self.log_weight.softmax(-1) * q).sum(-1),
            weight=discount ** time.to(q.dtype),
            log_weight=self.log_weight,
        )
        return estimates, visited

    def returns(self, beyond: Tensor, gamma: float) -> Tensor:
        """Return the discounted returns (S * K,) of the branches, of which those cut off are worth V `beyond`."""
        nothing = torch.zeros_like(self.reward)
        following = self.truncated * beyond
        following[-1] = beyond
        return monte_carlo(self.reward, nothing, following, self.terminated, self.truncated, gamma)[0]


class Vine(PathSampler):
    """Trunks in every environment, and branches from some of their states; all their steps count."""

    in_process = True

    def __init__(
        self,
        shards: Shards,
        environments: Sequence[Environments],
        normalizer: ObservationNormalizer,
        reward_scaler: RewardScaler,
        seed: int,
        *,
        steps_per_iteration: Count,
        num_states: Count,
        actions_per_state: Count | Literal["all"],
        branch_length: Count,
        proposal: Literal["policy", "uniform"] | None,
        common_random_numbers: bool,
        sequence_length: Count | None = None,
        burn_in: NonNegativeInt = 0,
    ) -> None:
        """`steps_per_iteration` is the most that trunks and branches take together; less if episodes end early.

        Raises `ConfigError` if nothing is left for the trunks, or the environments cannot be saved and restored.
        """
        some = environments[0]
        obstacle = some.snapshot_obstacle()
        if obstacle is not None:
            raise ConfigError(f"sampler: vine has to save and restore {some.task.id}, and cannot: {obstacle}")
        self.every_action = self._every_action(actions_per_state, proposal, some)
        self.tries_all = actions_per_state == "all"
        self.actions_per_state = len(self.every_action) if actions_per_state == "all" else actions_per_state
        self.num_states = shards.divide(num_states, "sampler.num_states")  # of each shard
        self.branch_length, self.common_random_numbers = branch_length, common_random_numbers
        horizon = self._trunk_length(steps_per_iteration, some.num_envs, shards.count)
        # Counts the trunks only, since branches may end early.
        refuse_too_many(horizon * shards.count * some.num_envs, shards, some.spec, normalizer)
        own = (shards, environments, normalizer, reward_scaler, seed)
        super().__init__(*own, horizon, sequence_length, burn_in)

    def _trunk_length(self, steps_per_iteration: int, num_envs: int, shards: int) -> int:
        """Return the steps left for each trunk, of `num_envs` in each shard.

        Raises `ConfigError` if they are too few to choose states from.
        """
        num_states = self.num_states
        # Environments that have no branch left step along with the others, and their steps count.
        rounds = -(-num_states * self.actions_per_state // num_envs)
        branch_steps = rounds * num_envs * self.branch_length
        length = (steps_per_iteration // shards - branch_steps) // num_envs
        if length * num_envs < num_states:
            needed = branch_steps + num_envs * -(-num_states // num_envs)
            raise ConfigError(
                f"sampler.steps_per_iteration: {steps_per_iteration} leaves the trunks fewer than num_states = "
                f"{num_states * shards} steps, since the branches may take {branch_steps * shards}; at least "
                f"{needed * shards} is needed"
            )
        return length

    def _every_action(self, actions_per_state: int | str, proposal: str | None, environments: Environments) -> Tensor:
        """Return the actions (M, A) that a uniform proposal draws from; none if the policy itself proposes."""
        distribution, env_id = environments.distribution, environments.task.id
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

    def collect(self, policy: Policy) -> Sequence[Branches]:
        policy = on_cpu(policy)
        chosen = [_Chosen.draw(path, self.horizon, self.num_states) for path in self.paths]
        followed = self.follow(policy, [one.visit for one in chosen])
        trunks = self.make_rollouts(followed)
        branches = self.attempt(functools.partial(self._branch, policy), chosen, trunks)
        self.count_steps()
        self.learn_scale(followed)
        return branches

    def _branch(self, policy: Policy, path: Path, chosen: _Chosen, trunk: Rollout) -> Branches:
        """Follow the branches of one shard."""
        envs = path.environments
        first, log_weight = self._first_actions(policy, path, trunk.states_at(chosen.place))
        everywhere = np.arange(envs.num_envs)
        aside, before = envs.save(everywhere), global_generators.current_states()
        record = self._branches(policy, path, chosen, trunk.memory_at(chosen.place).numpy(), first)
        if drawn := global_generators.changed_states(before):
            raise ConfigError(
                f"sampler: vine has to save and restore {envs.task.id}, and cannot: its steps draw from "
                f"{' and '.join(drawn)}, whose generator all environments share; self.np_random is each one's own"
            )
        envs.restore(everywhere, aside)
        return Branches(
            trunk=trunk,
            place=chosen.place,
            action=first,
            log_weight=log_weight,
            reward=torch.from_numpy(self.reward_scaler.scaled(record.reward)).float(),
            terminated=torch.from_numpy(record.terminated),
            truncated=torch.from_numpy(record.truncated),
            last_observation=torch.from_numpy(self.normalizer(record.last_observation)),
            last_memory=torch.from_numpy(record.last_memory),
        )

    @torch.no_grad()
    def _first_actions(self, policy: Policy, path: Path, observation: Observations) -> tuple[Tensor, Tensor]:
        """Draw actions (S, K, A) from the proposal. Returns log pi_old / q (S, K), too."""
        distribution, shape = policy.distribution, (self.num_states, self.actions_per_state)
        parameters = policy.infer(observation)
        if self.tries_all:
            action = self.every_action.expand(self.num_states, -1, -1)
        elif len(self.every_action):
            action = self.every_action[torch.randint(len(self.every_action), shape, generator=path.generator)]
        else:
            noise = distribution.noise(shape, path.generator).flatten(0, 1)
            repeated = parameters.repeat_interleave(self.actions_per_state, dim=0)
            return distribution.sample(repeated, noise).view(*shape, -1), torch.zeros(shape)
        log_q = -np.log(len(self.every_action))
        return action, distribution.log_prob(parameters[:, None], action) - log_q

    def _branches(self, policy: Policy, path: Path, chosen: _Chosen, memory: NDArray[Any], first: Tensor) -> _Record:
        """Follow every branch to its end or `branch_length`, as many at a time as there are environments.

        They begin in the chosen states (S), with the `memory` (S, M) of the policy there and the actions `first`
        (S, K, A).
        """
        envs, tries, length = path.environments, self.actions_per_state, self.branch_length
        count, common, generator = self.num_states * tries, self.common_random_numbers, path.generator
        noise = policy.distribution.noise((length, self.num_states if common else count), generator).numpy()
        seeds = torch.randint(2**31, (self.num_states if common else count,), generator=generator).numpy()
        stream = np.arange(count) // (tries if common else 1)  # index of each branch's noise and seed
        record, beginning = _Record(length, count, envs.observation, memory), first.flatten(0, 1).numpy()
        states = chosen.states
        acting = Acting(envs, self.normalizer, policy)
        jobs, age = Jobs(count, envs.num_envs), np.zeros(envs.num_envs, dtype=np.int64)

        def begin(rows: NDArray[np.int64]) -> None:
            envs.restore(rows, [states[job // tries] for job in jobs.of[rows]])
            acting.memory[rows] = memory[jobs.of[rows] // tries]
            envs.reseed(rows, seeds[stream[jobs.of[rows]]].tolist())
            age[rows] = 0

        begin(np.arange(envs.num_envs))
        while jobs.busy.any():
            fresh = age == 0
            step = acting.step(noise[age, stream[jobs.of]], imposed=(fresh, beginning[jobs.of[fresh]]))
            path.env_steps += envs.num_envs
            ended = np.flatnonzero(record.add(step, acting.memory, age, jobs))
            age += 1
            if len(ended):
                jobs.advance(ended)
                begin(ended)
        return record


@dataclass
class _Chosen:
    """The states of one shard from which branches begin."""

    environments: Environments
    place: Tensor  # (S,) int64, among the T * N of the trunk
    states: list[Any] = field(default_factory=list)  # (S), saved

    @classmethod
    def draw(cls, path: Path, horizon: int, count: int) -> _Chosen:
        """Draw `count` places uniformly among those of a trunk of `horizon` steps."""
        places = torch.randperm(horizon * path.environments.num_envs, generator=path.generator)[:count]
        return cls(path.environments, places.sort().values)

    def visit(self, t: int) -> None:
        """Save the chosen states of time t."""
        times, rows = np.divmod(self.place.numpy(), self.environments.num_envs)
        self.states.extend(self.environments.save(rows[times == t]))


class _Record:
    """What became of `count` branches of at most `length` steps each; zeros follow the end of a branch."""

    def __init__(self, length: int, count: int, observation: NDArray[Any], memory: NDArray[Any]) -> None:
        """`observation` (N, O) is what environments show, and `memory` (S, M) what the policy remembers."""
        self.reward = np.zeros((length, count))
        self.terminated, self.truncated = (np.zeros((length, count), dtype=bool) for _ in range(2))
        self.last_observation = np.zeros((count, *observation.shape[1:]), dtype=observation.dtype)
        self.last_memory = np.zeros((count, memory.shape[1]), dtype=memory.dtype)

    def add(self, step: Step, memory: NDArray[Any], age: NDArray[np.int64], jobs: Jobs) -> Flags:
        """Add a step of the environments that are busy with a branch, `age` (N,) steps after the branch began.

        `memory` (N, M) is that after the step. Returns which branches (N,) have ended with it, those that are repeated
        included.
        """
        busy, at = jobs.busy, (age[jobs.busy], jobs.of[jobs.busy])
        terminated, truncated = step.terminated | step.lost, step.truncated & ~step.lost
        self.reward[at] = step.reward[busy]
        self.terminated[at], self.truncated[at] = terminated[busy], truncated[busy]
        ended: Flags = terminated | truncated | (age + 1 == len(self.reward))
        self.last_observation[jobs.of[ended & busy]] = step.reached[ended & busy]
        self.last_memory[jobs.of[ended & busy]] = memory[ended & busy]
        return ended
