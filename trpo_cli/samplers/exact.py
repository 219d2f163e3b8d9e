"""Exact evaluation of a policy in a finite Markov decision process, by linear algebra in every state and action.

An algorithm then learns from its surrogate itself, L - eta = sum_s rho(s) sum_a pi(a|s) A(s, a) (the TRPO
paper, equation 3), so that methods can be compared line by line, and their guarantee be checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trpo_cli.columns import EXACT_RETURN
from trpo_cli.data import Advantage, Estimates, Predict, Sample, Tensors, Visited
from trpo_cli.envs.environments import Environments
from trpo_cli.errors import ConfigError
from trpo_cli.exact.finite_mdp import FiniteMDP, Guarantee, Values
from trpo_cli.models.distributions import Categorical
from trpo_cli.models.policies import Policy, on_cpu
from trpo_cli.ranges import Shrink
from trpo_cli.samplers import PolicySampler


@dataclass(frozen=True)
class Evaluated(Tensors, Sample):
    """A policy, and everything there is to know about it."""

    observation: Tensor  # (S, O)
    table: Tensor  # (S, A), its probabilities
    values: Values
    gamma: float
    evaluate: Callable[[Policy], Evaluated]  # of another policy, on the CPU

    def judge(self, improved: Policy) -> dict[str, float | None]:
        """Return both sides of the guarantee for the step from the evaluated policy to the improved one."""
        new = self.evaluate(improved)
        return Guarantee.between(self.values, self.table, new.values, new.table, self.gamma).metrics()

    def estimate(
        self, predict: Predict, advantage: Advantage, gamma: float, discount: float
    ) -> tuple[Estimates, Visited]:
        """Return exact values. The weight of a state is rho(s), which is discounted; `advantage` is not used."""
        kind, values = self.observation.dtype, self.values
        states, actions = self.table.shape
        return_ = values.value.to(kind)
        estimates = Estimates(
            observation=self.observation,
            action=torch.arange(actions, device=self.table.device).expand(states, actions)[..., None],
            advantage=values.advantage.to(kind),
            return_=return_,
            weight=values.visitation.to(kind),
            log_weight=(self.table * actions).log().to(kind),  # every action once, so q is uniform
        )
        return estimates, Visited(self.observation, predict(self.observation), return_)


class Exact(PolicySampler):
    """Evaluates a policy exactly. No environment steps are taken: `env_steps` counts iterations."""

    tries_all = True
    random = False
    headline = EXACT_RETURN
    beside = None

    def __init__(self, environments: Sequence[Environments], gamma: Shrink) -> None:
        """Raises `ConfigError` unless the task is a finite process whose model is known, with 0 < gamma < 1."""
        task, distribution = environments[0].task, environments[0].distribution
        with task.probe() as env:
            self.mdp = FiniteMDP.from_env(env)
        if task.normalize_observation or task.normalize_reward:
            raise ConfigError("env: normalisation is for sampled observations and rewards, not for sampler=exact")
        changes = {"wrappers": bool(task.wrappers.layers), "stack": task.stack > 1, "sign_reward": task.sign_reward}
        for key in filter(changes.get, changes):
            raise ConfigError(
                f"env.{key}: changes what is sampled, and sampler=exact evaluates the bare model of the task"
            )
        if gamma is None:
            raise ConfigError("sampler: exact is for algorithms with a discount, algo.gamma, and this one has none")
        if not 0 < gamma < 1:
            raise ConfigError(f"algo.gamma: got {gamma}; exact values need a discount between 0 and 1")
        if not isinstance(distribution, Categorical):  # a model numbers its actions
            raise ConfigError(f"sampler: exact needs discrete actions, and those of {task.id} are not")
        self.gamma = gamma
        self.observation = torch.eye(len(self.mdp.start), dtype=torch.float32)
        self.actions_per_state = distribution.sizes[0]
        self.action = torch.arange(self.actions_per_state).expand(len(self.observation), -1)[..., None]
        self.env_steps = 0

    def collect(self, policy: Policy) -> list[Evaluated]:
        self.env_steps += 1
        return [self._evaluate(policy)]

    @torch.no_grad()
    def _evaluate(self, policy: Policy) -> Evaluated:
        policy = on_cpu(policy)
        parameters = policy.infer(self.observation)
        table = policy.distribution.log_prob(parameters[:, None], self.action).double().exp()
        table = table.clamp(min=torch.finfo(torch.float64).tiny)  # no probability is zero, so KL divergences are finite
        table = table / table.sum(
            -1, keepdim=True
        )  # sums to one in double precision, whatever the precision of the policy
        observation, values = self.observation.to(parameters.dtype), self.mdp.evaluate(table, self.gamma)
        return Evaluated(observation, table, values, self.gamma, self._evaluate)

    def metrics(self) -> dict[str, float | None]:
        """Return none, since no episode is played."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"env_steps": self.env_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.env_steps = state["env_steps"]
