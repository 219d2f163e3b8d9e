"""TRPO, the natural gradient and the Euclidean ball: one trust-region update a batch."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import vector_to_parameters

from trpo_cli.algos import Metrics, Outcome
from trpo_cli.algos.policy_gradient import PolicyGradient
from trpo_cli.data import Batch
from trpo_cli.errors import ConfigError
from trpo_cli.models.critics import SharedCritic
from trpo_cli.models.distributions import Distribution
from trpo_cli.models.linearisation import flat, outputs
from trpo_cli.ranges import Count, Fraction, NonNegative, NonNegativeInt, Positive
from trpo_cli.schedules import Decay, decayed
from trpo_cli.surrogates import Surrogate
from trpo_cli.trust_region.problem import Evaluation, Problem
from trpo_cli.trust_region.update import Metric, StepRule, update


@dataclass(kw_only=True, eq=False)
class TrustRegion(PolicyGradient):
    """The recombinations in the table of `trpo_cli.trust_region.update`."""

    generator: torch.Generator
    metric: Metric
    step: StepRule
    delta: Positive  # the radius: nats of KL, or half a squared length where the metric is the identity
    delta_decay: Decay
    cg_iterations: Count
    cg_tolerance: NonNegative
    damping: NonNegative
    damping_retries: NonNegativeInt
    fvp_fraction: Fraction  # of the batch, drawn anew each update, for the Fisher-vector products

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fvp_fraction < 1 and not self.sampler.random:
            raise ConfigError(
                "algo.fvp_fraction: got a part of the states, and all of them are known with this sampler"
            )
        if isinstance(self.critic, SharedCritic):
            raise ConfigError(
                "critic: shared hidden layers would move outside the trust region when the critic is fitted; "
                "critic=shared goes with algo=ppo or algo=vpg_adam"
            )

    def update(self, batch: Batch, progress: float) -> tuple[Outcome, Metrics]:
        delta = decayed(self.delta, self.delta_decay, progress)
        result = update(
            self.problem(batch),
            metric=self.metric,
            step=self.step,
            delta=delta,
            cg_iterations=self.cg_iterations,
            cg_tolerance=self.cg_tolerance,
            damping=self.damping,
            damping_retries=self.damping_retries,
        )
        outcome = Outcome[result.outcome.name]
        if outcome is Outcome.ACCEPTED:
            vector_to_parameters(result.theta, self.policy.parameters())
        metrics = {"delta": delta, **result.metrics}
        return outcome, {f"trust_region/{name}": value for name, value in metrics.items()}

    def problem(self, batch: Batch) -> Problem:
        """The batch as a constrained problem in the policy's flat parameters."""
        policy, distribution = self.policy, self.policy.distribution
        sample = self._metric_states(batch)
        linear = functools.cache(lambda: policy.linearise(sample.observation))  # only some metrics ask for it

        candidate = copy.deepcopy(policy)

        def surrogate(parameters: Tensor) -> Tensor:
            return self.objective(distribution.log_prob(parameters[:, None], batch.action), batch)

        def evaluate(theta: Tensor) -> Evaluation:
            # The pass that `measure` takes: another one rounds differently, and a small radius would show it.
            vector_to_parameters(theta, candidate.parameters())
            parameters = candidate.infer(batch.observation)
            return Evaluation(surrogate(parameters), distribution.kl(batch.old_parameters, parameters))

        return Problem(
            theta_old=flat(policy),
            objective=lambda theta: surrogate(outputs(policy, theta, batch.observation)),
            evaluate=evaluate,
            weight=batch.weight,
            metric_outputs=lambda theta: outputs(policy, theta, sample.observation),
            metric_jvp=lambda vector: linear().jvp(vector),
            metric_vjp=lambda vector: linear().vjp(vector),
            metric_kl=lambda new: distribution.kl(sample.old_parameters, new),
            metric_fisher=lambda vector: distribution.fisher(sample.old_parameters, vector),
            metric_weight=sample.weight / sample.weight.mean(),
            metric_score=lambda: _scores(distribution, sample),
        )

    def measure(self, batch: Batch, surrogate: Surrogate | None = None) -> Metrics:
        return super().measure(batch, surrogate or self.objective)

    def _metric_states(self, batch: Batch) -> Batch:
        """The part of the batch that the Fisher-vector products run on."""
        if self.fvp_fraction == 1:
            return batch
        count = max(1, round(self.fvp_fraction * len(batch)))
        return batch.select(torch.randperm(len(batch), generator=self.generator)[:count])

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.generator.set_state(state["generator"])


def _scores(distribution: Distribution, batch: Batch) -> Tensor:
    """Scores (S, K, P) of the actions, each times the root of its share, so that outer products add to a mean."""
    share = (batch.old_log_prob - batch.log_q).softmax(-1)
    return share.sqrt()[..., None] * distribution.score(batch.old_parameters[:, None], batch.action)
