"""Behaviour cloning (Pomerleau 1989): make recorded actions likely, by epochs of Adam on their log-likelihood."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trpo_cli.algos import Iteration, Outcome
from trpo_cli.algos.patience import PatientAlgorithm
from trpo_cli.errors import ConfigError
from trpo_cli.models.adam import Adam
from trpo_cli.models.critics import ZeroCritic
from trpo_cli.models.linearisation import share_memory
from trpo_cli.models.policies import Policy
from trpo_cli.ranges import Count, Positive
from trpo_cli.samplers.recorded import Demonstrations, Recorded


@dataclass(kw_only=True, eq=False)
class BehaviourCloning(PatientAlgorithm):
    """Maximum likelihood of recorded actions; their rewards are not used."""

    sampler: Recorded
    policy: Policy
    critic: ZeroCritic  # nothing else would be used
    learning_rate: Positive
    adam_epsilon: Positive
    minibatch_size: Count | None  # None: all transitions of an iteration at once
    max_gradient_norm: Positive | None

    def __post_init__(self) -> None:
        if self.policy.memory_size:
            raise ConfigError("policy: algo=bc learns from transitions by themselves, and this policy remembers others")
        self.theta = share_memory(self.policy)
        self.optimizer = Adam(len(self.theta)).to(self.theta.device, self.theta.dtype)

    @property
    def headline(self) -> str:
        return "bc/log_likelihood"

    def iterate(self) -> Iteration:
        self._check_patience()
        start = time.perf_counter()
        sample, held_out = self.sampler.collect(), self.sampler.held_out()
        sampled = time.perf_counter()
        sample = sample.to(self.theta.device)
        outcome = self._learn(sample)
        likelihood, entropy = self._measure(sample)
        held = None if held_out is None else self._measure(held_out.to(self.theta.device))[0]
        self._note(outcome)
        metrics = {
            "bc/log_likelihood": likelihood,
            "bc/held_out_log_likelihood": held,
            "bc/epochs": self.sampler.epochs,
            "policy/entropy": entropy,
            **outcome.metrics(),
        }
        return Iteration(self.sampler.env_steps, sampled - start, time.perf_counter() - sampled, metrics)

    def _learn(self, sample: Demonstrations) -> Outcome:
        """Take a step for each minibatch; leave everything as it was if any number would not be finite."""
        before = copy.deepcopy((self.theta, self.optimizer.state_dict()))
        size = self.minibatch_size or len(sample)
        for start in range(0, len(sample), size):
            self._ascend(sample.select(slice(start, start + size)))
        if bool(self.theta.isfinite().all()):
            return Outcome.ACCEPTED
        self.theta.copy_(before[0])
        self.optimizer.load_state_dict(before[1])
        return Outcome.NON_FINITE_GRADIENT

    def _ascend(self, batch: Demonstrations) -> None:
        model = self.policy.linearise(batch.observation)
        score = self.policy.distribution.score(model.output, batch.action)
        gradient = model.vjp(-score / len(batch))
        if self.max_gradient_norm is not None:
            gradient.mul_((self.max_gradient_norm / gradient.norm()).clamp(max=1.0))
        self.optimizer.step(self.theta, gradient, self.learning_rate, self.adam_epsilon)

    @torch.no_grad()
    def _measure(self, sample: Demonstrations) -> tuple[float, float]:
        """The mean log-likelihood of the actions, and the mean entropy of the policy in these states."""
        distribution = self.policy.distribution
        parameters: Tensor = self.policy.infer(sample.observation)
        likelihood = distribution.log_prob(parameters, sample.action).mean().item()
        return likelihood, distribution.entropy(parameters).mean().item()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.optimizer.load_state_dict(state["optimizer"])
