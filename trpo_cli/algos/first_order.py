"""PPO and the vanilla policy gradient with Adam: epochs of minibatches on a surrogate."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trpo_cli.algos import Metrics, Outcome
from trpo_cli.algos.policy_gradient import PolicyGradient
from trpo_cli.data import Batch
from trpo_cli.errors import ConfigError
from trpo_cli.models.adam import Adam
from trpo_cli.models.critics import SharedCritic
from trpo_cli.models.linearisation import Linearisation, linearise, share_memory, size
from trpo_cli.models.policies import Policy
from trpo_cli.ranges import Count, Finite, NonNegative, Positive
from trpo_cli.schedules import Decay, decayed
from trpo_cli.trust_region.constraint import mean_kl

PENALTY_RANGE = 1000.0  # how far an adaptive penalty may go from where it began, up or down


class PolicyAndValue(nn.Module):
    """A policy and the critic on its hidden layers as one module: distribution parameters, and V(s) behind them."""

    def __init__(self, policy: Policy, critic: SharedCritic) -> None:
        super().__init__()
        self.policy, self.critic = policy, critic

    def forward(self, observation: Tensor) -> Tensor:
        return torch.cat([self.policy(observation), self.critic(observation)[:, None]], dim=-1)

    def infer(self, observation: Tensor) -> Tensor:
        return self(observation)  # type: ignore[no-any-return]

    def linearise(self, observation: Tensor) -> Linearisation:
        return linearise(self, observation)


@dataclass(kw_only=True, eq=False)
class FirstOrder(PolicyGradient):
    """Adam on surrogate and entropy bonus, and on the value loss too where the critic shares the hidden layers."""

    generator: torch.Generator
    learning_rate: Positive
    learning_rate_decay: Decay
    adam_epsilon: Positive
    epochs: Count
    minibatch_size: Count | None  # None: the whole batch at once
    entropy_coefficient: Finite
    max_gradient_norm: Positive | None
    target_kl: Positive | None  # no further epoch once the mean KL has passed it
    kl_penalty: NonNegative  # C of the objective L - C KL(old || new), in units of advantage a nat
    kl_penalty_target: Positive | None  # mean KL that C is adapted to; None: C stays

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kl_penalty_target is not None and not self.kl_penalty:
            raise ConfigError(
                "algo.kl_penalty_target: adapts algo.kl_penalty, which is 0; give it a value to begin with"
            )
        shared = self.critic if isinstance(self.critic, SharedCritic) else None
        self.value_coefficient = 0.0 if shared is None else shared.coefficient
        self.model: Policy | PolicyAndValue = self.policy if shared is None else PolicyAndValue(self.policy, shared)
        theta = next(self.model.parameters())
        self.optimizer = Adam(size(self.model), self.adam_epsilon).to(theta.device, theta.dtype)
        self.penalty = self.kl_penalty  # C as it is now

    def update(self, batch: Batch, progress: float) -> tuple[Outcome, Metrics]:
        learning_rate = decayed(self.learning_rate, self.learning_rate_decay, progress)
        theta = share_memory(self.model)
        before = copy.deepcopy((theta, self.optimizer.state_dict()))
        outcome, epochs = self._optimize(theta, batch, learning_rate)
        if outcome is not Outcome.ACCEPTED:
            theta.copy_(before[0])
            self.optimizer.load_state_dict(before[1])
        metrics: Metrics = {"policy/epochs": float(epochs), "policy/learning_rate": learning_rate}
        if self.kl_penalty:
            metrics["policy/kl_penalty"] = self.penalty
        if self.kl_penalty_target is not None and outcome is Outcome.ACCEPTED:
            self._adapt(self._kl(batch), self.kl_penalty_target)
        return outcome, metrics

    def _adapt(self, kl: float, target: float) -> None:
        """Twice the penalty after a KL far above the target, half after one far below (PPO paper, section 4)."""
        if kl > 1.5 * target:
            self.penalty = min(2 * self.penalty, PENALTY_RANGE * self.kl_penalty)
        elif kl < target / 1.5:
            self.penalty = max(self.penalty / 2, self.kl_penalty / PENALTY_RANGE)

    def _optimize(self, theta: Tensor, batch: Batch, learning_rate: float) -> tuple[Outcome, int]:
        """Run the epochs; stop at the first loss or gradient that is not finite. Returns the number of epochs too."""
        outcome = Outcome.ZERO_GRADIENT
        for epoch in range(1, self.epochs + 1):
            for minibatch in self._minibatches(batch):
                step = self._descend(theta, minibatch, learning_rate)
                if step in (Outcome.NON_FINITE_LOSS, Outcome.NON_FINITE_GRADIENT):
                    return step, epoch
                outcome = min(outcome, step)  # ACCEPTED as soon as one minibatch moved the policy
            if self.target_kl is not None and self._kl(batch) > self.target_kl:
                break
        return outcome if self._finite(theta, batch) else Outcome.NON_FINITE_LOSS, epoch

    def _minibatches(self, batch: Batch) -> Iterator[Batch]:
        size = self.minibatch_size or len(batch)
        if size >= len(batch):
            yield batch
            return
        shuffled = batch.select(torch.randperm(len(batch), generator=self.generator).to(self.device))
        for start in range(0, len(batch), size):
            yield shuffled.select(slice(start, start + size))

    def _descend(self, theta: Tensor, batch: Batch, learning_rate: float) -> Outcome:
        """One step of Adam, unless the loss or the gradient forbids it."""
        model = self.model.linearise(batch.observation)
        loss, slope = self._loss(model.output, batch)
        if not math.isfinite(loss):
            return Outcome.NON_FINITE_LOSS
        gradient = model.vjp(slope)
        norm = gradient.norm().item()
        if not math.isfinite(norm):
            return Outcome.NON_FINITE_GRADIENT
        if norm == 0:
            return Outcome.ZERO_GRADIENT
        if self.max_gradient_norm is not None and norm > self.max_gradient_norm:
            gradient.mul_(self.max_gradient_norm / norm)
        self.optimizer.step(theta, gradient, learning_rate)
        return Outcome.ACCEPTED

    def _loss(self, output: Tensor, batch: Batch) -> tuple[float, Tensor]:
        """The loss and its slope (B, P) by the outputs of the model; (B, P + 1) where the last of them is the value."""
        distribution, size = self.policy.distribution, batch.old_parameters.shape[-1]
        parameters = output[:, :size]
        log_prob = distribution.log_prob(parameters[:, None], batch.action).requires_grad_()
        surrogate = self.objective(log_prob, batch)
        (by_log_prob,) = torch.autograd.grad(surrogate, log_prob)
        score = distribution.score(parameters[:, None], batch.action)
        loss, slope = -surrogate.item(), -(by_log_prob[..., None] * score).sum(1)
        if self.entropy_coefficient or self.penalty:
            leaf = parameters.clone().requires_grad_()
            kl = (batch.weight * distribution.kl(batch.old_parameters, leaf)).mean()
            entropy = (batch.weight * distribution.entropy(leaf)).mean()
            regular = self.penalty * kl - self.entropy_coefficient * entropy
            loss, slope = loss + regular.item(), slope + torch.autograd.grad(regular, leaf)[0]
        if output.shape[-1] > size:
            error = output[:, size] - batch.return_
            loss += self.value_coefficient * error.square().mean().item()
            slope = torch.cat([slope, (self.value_coefficient * 2 / len(error)) * error[:, None]], dim=-1)
        return loss, slope

    @torch.no_grad()
    def _finite(self, theta: Tensor, batch: Batch) -> bool:
        """Whether the parameters, and the loss of the whole batch under them, are still finite after the last step."""
        output = self.model.infer(batch.observation)
        parameters = output[:, : batch.old_parameters.shape[-1]]
        surrogate = self.objective(self.policy.distribution.log_prob(parameters[:, None], batch.action), batch)
        finite = all(x.isfinite().all() for x in (theta, output, surrogate))
        return finite and math.isfinite(self._kl(batch))

    @torch.no_grad()
    def _kl(self, batch: Batch) -> float:
        new = self.policy.infer(batch.observation)
        return mean_kl(self.policy.distribution.kl(batch.old_parameters, new), batch.weight).item()

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "generator": self.generator.get_state(),
            "optimizer": self.optimizer.state_dict(),
            "penalty": self.penalty,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.generator.set_state(state["generator"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.penalty = state["penalty"]
