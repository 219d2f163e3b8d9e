"""TRPO, the natural gradient and the Euclidean ball: one trust-region update a batch."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import vector_to_parameters

from trpo_cli.algos import Metrics, Outcome
from trpo_cli.algos.policy_gradient import PolicyGradient
from trpo_cli.data import Batch, States
from trpo_cli.errors import ConfigError
from trpo_cli.models.critics import SharedCritic
from trpo_cli.models.linearisation import flat, share_memory
from trpo_cli.ranges import Count, Finite, Fraction, NonNegative, NonNegativeInt, Positive
from trpo_cli.trust_region.geometry import Geometry, MatVec, Scores
from trpo_cli.trust_region.problem import Evaluation, Problem
from trpo_cli.trust_region.update import Metric, StepRule, update


@dataclass(kw_only=True, eq=False)
class TrustRegion(PolicyGradient):
    """The recombinations in the table of `trpo_cli.trust_region.update`."""

    generator: torch.Generator
    metric: Metric
    step: StepRule
    delta: Positive  # the radius: nats of KL, or half a squared length where the metric is the identity
    cg_iterations: Count
    cg_tolerance: NonNegative
    damping: NonNegative
    damping_retries: NonNegativeInt
    fvp_fraction: Fraction  # of the batch, drawn anew for each update: the states of Fisher-vector products
    entropy_coefficient: Finite = 0.0  # of the bonus in the objective, which the line search compares too

    def __post_init__(self) -> None:
        super().__post_init__()
        share_memory(self.policy)  # the memory of a candidate looks the same, and so its passes round the same
        if self.fvp_fraction < 1 and not self.sampler.random:
            raise ConfigError(
                "algo.fvp_fraction: this sampler gives every state exactly, and no part of them may be left out"
            )
        if isinstance(self.critic, SharedCritic):
            raise ConfigError(
                "critic: shared hidden layers would move outside the trust region when the critic is fitted; "
                "critic=shared is for first-order methods, such as algo=ppo and algo=a2c"
            )

    def update(self, batch: Batch) -> tuple[Outcome, Metrics]:
        problem, measured = self.problem(batch), self._draw_states(batch)
        result = update(
            problem,
            lambda: self.find_metric(measured),
            step=self.step,
            delta=self.delta,
            cg_iterations=self.cg_iterations,
            cg_tolerance=self.cg_tolerance,
            damping=self.damping,
            damping_retries=self.damping_retries,
        )
        if result.theta is not None:
            vector_to_parameters(result.theta, self.policy.parameters())
        reached = result.evaluation
        improvement = 0.0 if reached is None else (reached.objective - problem.start).item()
        named = {"delta": self.delta, **result.metrics, "improvement": improvement}
        metrics = {f"trust_region/{name}": value for name, value in named.items()}
        return Outcome[result.outcome.name], metrics | self.measure(batch, self.objective, reached)

    def bonus(self, entropy: Tensor, batch: Batch) -> Tensor | float:
        return self.entropy_coefficient * (batch.weight * entropy).mean() if self.entropy_coefficient else 0.0

    def problem(self, batch: Batch) -> Problem:
        """The batch as a constrained problem in the policy's flat parameters."""
        candidate = copy.deepcopy(self.policy)

        def evaluate(theta: Tensor) -> Evaluation:
            # By `infer`, as in `estimate`: a pass with a graph rounds differently, which a small radius would show.
            vector_to_parameters(theta, candidate.parameters())
            return self.evaluate(batch, candidate.infer, self.objective)

        return Problem(
            theta_old=flat(self.policy),
            start=self.objective(batch.old_log_prob, batch) + self.bonus(batch.old_entropy, batch),
            gradient=lambda: self.gradient(batch),
            evaluate=evaluate,
            weight=batch.weight,
        )

    def find_metric(self, batch: Batch) -> MatVec:
        """v (D,) -> A v: the mean of the products that the metric has in the states of each shard."""
        shards, weight = self.shards, batch.weight / batch.weight.mean()
        columns = [shards.split(column) for column in (weight, batch.old_log_prob, batch.log_q)]
        geometries = [self.geometry(*one) for one in zip(batch.states, *columns, strict=True)]
        products = shards.each(self.metric, geometries)

        def product(v: Tensor) -> Tensor:
            (total,) = shards.sum(shards.each(lambda of_shard: (of_shard(v),), products))
            return total / shards.count

        return product

    def geometry(self, states: States, weight: Tensor, old_log_prob: Tensor, log_q: Tensor) -> Geometry:
        """How the policy's distributions move in the states of one shard."""
        policy, distribution, old = self.policy, self.policy.distribution, states.old_parameters
        return Geometry(
            theta_old=flat(policy),
            weight=weight,
            outputs=lambda theta: policy.outputs(theta, states.observation),
            kl=lambda new: distribution.kl(old, new),
            linearise=lambda: policy.linearise(states.observation),
            fisher=lambda vector: distribution.fisher(old, vector),
            scores=lambda: Scores(
                value=distribution.score(old[:, None], states.action), share=(old_log_prob - log_q).softmax(-1)
            ),
        )

    def _draw_states(self, batch: Batch) -> Batch:
        """Draw the states or sequences for the Fisher-vector products, the same of each shard."""
        if self.fvp_fraction == 1:
            return batch
        count = max(1, round(self.fvp_fraction * batch.units))
        return batch.select(torch.randperm(batch.units, generator=self.generator)[:count])

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.generator.set_state(state["generator"])
