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
from trpo_cli.data import Batch
from trpo_cli.errors import ConfigError
from trpo_cli.models.critics import SharedCritic
from trpo_cli.models.linearisation import flat, share_memory
from trpo_cli.ranges import Count, Finite, Fraction, NonNegative, NonNegativeInt, Positive
from trpo_cli.surrogates import Surrogate, importance_sampled
from trpo_cli.trust_region.geometry import Geometry, Scores
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
        problem = self.problem(batch)
        result = update(
            problem,
            self.geometry(self._draw_states(batch)),
            metric=self.metric,
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

    def merit(self, parameters: Tensor, batch: Batch) -> Tensor:
        """What the update maximises, of the policy that gives the batch these `parameters` (S, P)."""
        log_prob = self.policy.distribution.log_prob(parameters[:, None], batch.action)
        return self.objective(log_prob, batch) + self._bonus(parameters, batch)

    def _bonus(self, parameters: Tensor, batch: Batch) -> Tensor | float:
        """The mean entropy, weighed by the coefficient."""
        if not self.entropy_coefficient:
            return 0.0
        return self.entropy_coefficient * (batch.weight * self.policy.distribution.entropy(parameters)).mean()

    def evaluate(self, batch: Batch, parameters: Tensor, surrogate: Surrogate = importance_sampled) -> Evaluation:
        found, bonus = super().evaluate(batch, parameters, surrogate), self._bonus(parameters, batch)
        return found._replace(objective=found.objective + bonus, bonus=bonus)

    def problem(self, batch: Batch) -> Problem:
        """The batch as a constrained problem in the policy's flat parameters."""
        policy, candidate, theta_old = self.policy, copy.deepcopy(self.policy), flat(self.policy)

        def objective(theta: Tensor) -> Tensor:
            known = batch.old_parameters if torch.equal(theta, theta_old) else None
            return self.merit(policy.outputs(theta, batch.observation, known=known), batch)

        def evaluate(theta: Tensor) -> Evaluation:
            # By `infer`, as in `estimate`: a pass with a graph rounds differently, which a small radius would show.
            vector_to_parameters(theta, candidate.parameters())
            return self.evaluate(batch, candidate.infer(batch.observation), self.objective)

        return Problem(
            theta_old=theta_old,
            start=self.objective(batch.old_log_prob, batch) + self._bonus(batch.old_parameters, batch),
            objective=objective,
            evaluate=evaluate,
            weight=batch.weight,
        )

    def geometry(self, states: Batch) -> Geometry:
        """How the policy's distributions move in these states."""
        policy, distribution, old = self.policy, self.policy.distribution, states.old_parameters
        return Geometry(
            theta_old=flat(policy),
            weight=states.weight / states.weight.mean(),
            outputs=lambda theta: policy.outputs(theta, states.observation),
            kl=lambda new: distribution.kl(old, new),
            linearise=lambda: policy.linearise(states.observation),
            fisher=lambda vector: distribution.fisher(old, vector),
            scores=lambda: Scores(
                value=distribution.score(old[:, None], states.action),
                share=(states.old_log_prob - states.log_q).softmax(-1),
            ),
        )

    def _draw_states(self, batch: Batch) -> Batch:
        """Draw the states for the Fisher-vector products."""
        if self.fvp_fraction == 1:
            return batch
        count = max(1, round(self.fvp_fraction * len(batch)))
        return batch.select(torch.randperm(len(batch), generator=self.generator)[:count])

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.generator.set_state(state["generator"])
