"""PPO and the vanilla policy gradient with Adam: epochs of minibatches on a surrogate."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.nn.utils import clip_grad_norm_, parameters_to_vector

from trpo_cli.algos import Metrics
from trpo_cli.algos.policy_gradient import PolicyGradient
from trpo_cli.critics import SharedCritic
from trpo_cli.data import Batch
from trpo_cli.ranges import Count, Finite, Positive
from trpo_cli.schedules import Decay, decayed
from trpo_cli.trust_region.constraint import mean_kl
from trpo_cli.trust_region.step import Outcome

Surrogate = Callable[[Tensor, Batch], Tensor]


@dataclass(kw_only=True, eq=False)
class FirstOrder(PolicyGradient):
    """Adam on surrogate and entropy bonus, and on the value loss too where the critic shares the hidden layers."""

    generator: torch.Generator
    surrogate: Surrogate
    learning_rate: Positive
    learning_rate_decay: Decay
    adam_epsilon: Positive
    epochs: Count
    minibatch_size: Count | None  # None: the whole batch at once
    entropy_coefficient: Finite
    max_gradient_norm: Positive | None
    target_kl: Positive | None  # no further epoch once the mean KL has passed it

    def __post_init__(self) -> None:
        self.shared = self.critic if isinstance(self.critic, SharedCritic) else None
        self.trained = nn.ModuleList([self.policy] if self.shared is None else [self.policy, self.shared])
        self.optimizer = torch.optim.Adam(self.trained.parameters(), lr=self.learning_rate, eps=self.adam_epsilon)

    def update(self, batch: Batch, progress: float) -> tuple[Outcome, Metrics]:
        self.optimizer.param_groups[0]["lr"] = decayed(self.learning_rate, self.learning_rate_decay, progress)
        before = copy.deepcopy((self.trained.state_dict(), self.optimizer.state_dict()))
        outcome, epochs = self._optimize(batch)
        if outcome is not Outcome.ACCEPTED:
            self.trained.load_state_dict(before[0])
            self.optimizer.load_state_dict(before[1])
        return outcome, {"policy/epochs": float(epochs), "policy/learning_rate": self.optimizer.param_groups[0]["lr"]}

    def _optimize(self, batch: Batch) -> tuple[Outcome, int]:
        """Run the epochs; stop at the first loss or gradient that is not finite. Returns the number of epochs too."""
        outcome = Outcome.ZERO_GRADIENT
        for epoch in range(1, self.epochs + 1):
            for minibatch in self._minibatches(batch):
                step = self._descend(minibatch)
                if step in (Outcome.NON_FINITE_LOSS, Outcome.NON_FINITE_GRADIENT):
                    return step, epoch
                outcome = min(outcome, step)  # ACCEPTED as soon as one minibatch moved the policy
            if self.target_kl is not None and self._kl(batch) > self.target_kl:
                break
        return outcome if self._finite(batch) else Outcome.NON_FINITE_LOSS, epoch

    def _minibatches(self, batch: Batch) -> Iterator[Batch]:
        if self.minibatch_size is None or self.minibatch_size >= len(batch):
            yield batch
            return
        for rows in torch.randperm(len(batch), generator=self.generator).split(self.minibatch_size):
            yield batch.select(rows)

    def _descend(self, batch: Batch) -> Outcome:
        """One step of Adam, unless the loss or the gradient forbids it."""
        loss = self._loss(batch)
        if not loss.isfinite():
            return Outcome.NON_FINITE_LOSS
        self.optimizer.zero_grad()
        loss.backward()
        norm = clip_grad_norm_(self.trained.parameters(), self.max_gradient_norm or float("inf"))
        if not norm.isfinite():
            return Outcome.NON_FINITE_GRADIENT
        if norm == 0:
            return Outcome.ZERO_GRADIENT
        self.optimizer.step()
        return Outcome.ACCEPTED

    def _loss(self, batch: Batch) -> Tensor:
        distribution = self.policy.distribution
        parameters = self.policy(batch.observation)
        loss = -self.surrogate(distribution.log_prob(parameters, batch.action), batch)
        loss = loss - self.entropy_coefficient * distribution.entropy(parameters).mean()
        if self.shared is not None:
            loss = loss + self.shared.coefficient * mse_loss(self.shared(batch.observation), batch.return_)
        return loss

    @torch.no_grad()
    def _finite(self, batch: Batch) -> bool:
        """Whether the parameters, and the loss of the whole batch under them, are still finite after the last step."""
        finite = all(parameter.isfinite().all() for parameter in self.trained.parameters())
        return finite and bool(self._loss(batch).isfinite()) and math.isfinite(self._kl(batch))

    @torch.no_grad()
    def _kl(self, batch: Batch) -> float:
        new = self.outputs(parameters_to_vector(self.policy.parameters()), batch.observation)
        return mean_kl(self.policy.distribution.kl(batch.old_parameters, new), batch.weight).item()

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "generator": self.generator.get_state(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.generator.set_state(state["generator"])
        self.optimizer.load_state_dict(state["optimizer"])
