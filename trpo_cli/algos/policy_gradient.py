"""One iteration of every sampled policy-gradient method, on one screen: collect, estimate, update, fit the critic."""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from trpo_cli.algos import Algorithm, Metrics
from trpo_cli.critics import Critic, explained_variance
from trpo_cli.data import Batch, Rollout
from trpo_cli.errors import TrainingError
from trpo_cli.policies import Policy
from trpo_cli.ranges import Count, UnitInterval
from trpo_cli.samplers import Sampler
from trpo_cli.surrogates import importance_sampled
from trpo_cli.threads import threads_for
from trpo_cli.trust_region.constraint import max_kl, mean_kl
from trpo_cli.trust_region.step import Outcome

logger = logging.getLogger(__name__)

Advantage = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, float], Tensor]


@dataclass(kw_only=True, eq=False)
class PolicyGradient(Algorithm):
    """Shared by the methods of the family; a subclass says how the policy moves (`update`)."""

    sampler: Sampler
    policy: Policy
    critic: Critic
    gamma: UnitInterval
    advantage: Advantage
    normalize_advantage: bool
    discount_states: bool  # the state at time t of its episode weighs gamma^t, as in theory (seed 002's gamma^k)
    max_rejected: Count  # updates in a row, before training ends
    rejected_in_a_row: int = field(default=0, init=False)

    @property
    def device(self) -> torch.device:
        """Where the update runs."""
        return next(self.policy.parameters()).device

    def iterate(self, progress: float) -> Metrics:
        self._check_patience()
        start = time.perf_counter()
        rollout = self.sampler.collect(self.policy)
        sampled = time.perf_counter()
        with threads_for(rollout.reward.numel()):
            batch, value = self.estimate(rollout.to(self.device))
            outcome, metrics = self.update(batch, progress)
            metrics |= self.measure(batch)
            metrics |= {
                "critic/explained_variance": explained_variance(value, batch.return_),
                "critic/loss": nn.functional.mse_loss(value, batch.return_).item(),
            }
            self.critic.fit(batch.observation, batch.return_, progress)
        self._note(outcome)
        return {
            **self.sampler.metrics(),
            **metrics,
            "trust_region/accepted": float(outcome is Outcome.ACCEPTED),
            "trust_region/outcome": float(outcome),
            "time/sample_seconds": sampled - start,
            "time/update_seconds": time.perf_counter() - sampled,
        }

    @torch.no_grad()
    def estimate(self, rollout: Rollout) -> tuple[Batch, Tensor]:
        """The flat batch with advantages and the old policy's opinion, and V (B,) before the critic is fitted."""
        value, next_value = self.values(rollout)
        advantage = self.advantage(rollout.reward, value, next_value, rollout.terminated, rollout.truncated, self.gamma)
        return_ = advantage + value
        if self.normalize_advantage:
            advantage = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
        weight = self.gamma ** rollout.time.float() if self.discount_states else torch.ones_like(advantage)
        observation, action = rollout.observation.flatten(0, 1), rollout.action.flatten(0, 1)
        parameters = self.policy.infer(observation)
        batch = Batch(
            observation=observation,
            action=action,
            advantage=advantage.flatten(),
            return_=return_.flatten(),
            weight=(weight / weight.mean()).flatten(),
            old_parameters=parameters,
            old_log_prob=self.policy.distribution.log_prob(parameters, action),
        )
        return batch, value.flatten()

    def values(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """V(s_t) and V of the true successor, both (T, N)."""
        value = self.critic.predict(rollout.observation.flatten(0, 1)).view_as(rollout.reward)
        last = self.critic.predict(rollout.last_observation)
        next_value = torch.cat([value[1:], last[None]])
        next_value[rollout.truncated] = self.critic.predict(rollout.truncated_observation)
        return value, next_value

    @abstractmethod
    def update(self, batch: Batch, progress: float) -> tuple[Outcome, Metrics]:
        """Move the policy, or leave it bit for bit what it was and say why."""

    @torch.no_grad()
    def measure(self, batch: Batch) -> Metrics:
        """What the update did to the policy, on the whole batch; the entropy is that of the policy which sampled it."""
        new, distribution = self.policy.infer(batch.observation), self.policy.distribution
        kl = distribution.kl(batch.old_parameters, new)
        improvement = importance_sampled(distribution.log_prob(new, batch.action), batch)
        return {
            "policy/kl": mean_kl(kl, batch.weight).item(),
            "policy/max_kl": max_kl(kl, batch.weight).item(),
            "policy/entropy": distribution.entropy(batch.old_parameters).mean().item(),
            "policy/surrogate_improvement": (improvement - importance_sampled(batch.old_log_prob, batch)).item(),
        }

    def _note(self, outcome: Outcome) -> None:
        """Count rejected updates in a row, and say why the last one was."""
        if outcome is Outcome.ACCEPTED:
            self.rejected_in_a_row = 0
            return
        self.rejected_in_a_row += 1
        reason = outcome.name.lower().replace("_", " ")
        logger.warning("update rejected (%s): the policy stays as it was", reason)

    def _check_patience(self) -> None:
        """End the training when too many updates in a row were rejected: here, after the last of them was logged."""
        if self.rejected_in_a_row >= self.max_rejected:
            raise TrainingError(
                f"{self.rejected_in_a_row} updates in a row were rejected: the policy no longer moves.\n"
                "train.log says why, as does trust_region/outcome in metrics.csv; "
                "algo.max_rejected sets how many are allowed."
            )

    def state_dict(self) -> dict[str, Any]:
        return {"rejected_in_a_row": self.rejected_in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rejected_in_a_row = state["rejected_in_a_row"]
