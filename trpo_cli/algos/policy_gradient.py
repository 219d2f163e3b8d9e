"""One iteration of every sampled policy-gradient method, on one screen: collect, estimate, update, fit the critic."""

from __future__ import annotations

import time
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trpo_cli.algos import Iteration, Metrics, Outcome
from trpo_cli.algos.objective import fitting_surrogate, refuse_too_few_actions
from trpo_cli.algos.patience import PatientAlgorithm
from trpo_cli.data import Advantage, Batch, Sample, Visited
from trpo_cli.errors import ConfigError
from trpo_cli.models.critics import Critic, Fitted, ZeroCritic, explained_variance
from trpo_cli.models.policies import Policy
from trpo_cli.ranges import UnitInterval
from trpo_cli.samplers import PolicySampler
from trpo_cli.surrogates import Surrogate, importance_sampled
from trpo_cli.threads import threads_for
from trpo_cli.trust_region.constraint import max_kl, mean_kl
from trpo_cli.trust_region.problem import Evaluation


@dataclass(kw_only=True, eq=False)
class PolicyGradient(PatientAlgorithm):
    """Shared by the methods of the family; a subclass says how the policy moves (`update`)."""

    sampler: PolicySampler
    policy: Policy
    critic: Critic
    gamma: UnitInterval
    advantage: Advantage
    surrogate: Surrogate | None = None  # None: the one that fits the sampler
    normalize_advantage: bool
    discount_states: bool  # the state at time t of its episode weighs gamma^t, as in theory

    def __post_init__(self) -> None:
        self.objective = self.surrogate or fitting_surrogate(self.sampler)
        refuse_too_few_actions(self.objective, self.sampler)
        if not self.sampler.random and not isinstance(self.critic, ZeroCritic):
            raise ConfigError("critic: values are exact with this sampler, and no critic would be used; critic=zero")

    @property
    def device(self) -> torch.device:
        """Where the update runs."""
        return next(self.policy.parameters()).device

    def iterate(self) -> Iteration:
        self._check_patience()
        start = time.perf_counter()
        sample = self.sampler.collect(self.policy)
        sampled = time.perf_counter()
        with threads_for(sample.size):
            batch, visited = self.estimate(sample.to(self.device))
            outcome, metrics = self.update(batch)
            metrics |= {
                "critic/explained_variance": explained_variance(visited.value, visited.return_),
                "critic/loss": nn.functional.mse_loss(visited.value, visited.return_).item(),
            }
            if isinstance(self.critic, Fitted):
                self.critic.fit(visited.observation, visited.return_)
        self._note(outcome)
        metrics = {**self.sampler.metrics(), **sample.judge(self.policy), **metrics, **outcome.metrics()}
        return Iteration(self.sampler.env_steps, sampled - start, time.perf_counter() - sampled, metrics)

    @torch.no_grad()
    def estimate(self, sample: Sample) -> tuple[Batch, Visited]:
        """What the sample says of the policy, and of the values that the critic will learn."""
        discount = self.gamma if self.discount_states else 1.0
        found, visited = sample.estimate(self.critic.predict, self.advantage, self.gamma, discount)
        advantage = found.advantage
        if self.normalize_advantage:
            advantage = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
        parameters = self.policy.infer(found.observation)
        log_prob = self.policy.distribution.log_prob(parameters[:, None], found.action)
        batch = Batch(
            observation=found.observation,
            action=found.action,
            advantage=advantage,
            return_=found.return_,
            weight=found.weight / found.weight.mean(),
            old_parameters=parameters,
            old_log_prob=log_prob,
            log_q=log_prob - found.log_weight,
        )
        return batch, visited

    @abstractmethod
    def update(self, batch: Batch) -> tuple[Outcome, Metrics]:
        """Move the policy, or leave it bit for bit what it was and say why; the metrics include those of `measure`."""

    def evaluate(self, batch: Batch, parameters: Tensor, surrogate: Surrogate = importance_sampled) -> Evaluation:
        """The surrogate, and the KL from the old policy, of the one that gives the batch these `parameters` (S, P)."""
        distribution = self.policy.distribution
        log_prob = distribution.log_prob(parameters[:, None], batch.action)
        return Evaluation(surrogate(log_prob, batch), distribution.kl(batch.old_parameters, parameters))

    @torch.no_grad()
    def measure(
        self, batch: Batch, surrogate: Surrogate = importance_sampled, reached: Evaluation | None = None
    ) -> Metrics:
        """What the update did to the policy, on the whole batch; the entropy is that of the policy which sampled it.

        `reached` is the evaluation of the policy as it is now, for an update that has made it already.
        """
        if reached is None:
            reached = self.evaluate(batch, self.policy.infer(batch.observation), surrogate)
        entropy = self.policy.distribution.entropy(batch.old_parameters)
        return {
            "policy/kl": mean_kl(reached.kl, batch.weight).item(),
            "policy/max_kl": max_kl(reached.kl, batch.weight).item(),
            "policy/entropy": (batch.weight * entropy).mean().item(),
            "policy/surrogate_improvement": (
                reached.objective - reached.bonus - surrogate(batch.old_log_prob, batch)
            ).item(),
        }
