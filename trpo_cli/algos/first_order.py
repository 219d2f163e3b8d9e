"""PPO and the vanilla policy gradient with Adam: epochs of minibatches on a surrogate."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trpo_cli.algos import Metrics, Outcome
from trpo_cli.algos.policy_gradient import PolicyGradient
from trpo_cli.data import Batch, States
from trpo_cli.errors import ConfigError
from trpo_cli.models.adam import Adam
from trpo_cli.models.critics import PolicyAndValue, SharedCritic
from trpo_cli.models.linearisation import Linearisation, share_memory
from trpo_cli.models.policies import Policy
from trpo_cli.ranges import Count, Finite, NonNegative, Positive
from trpo_cli.surrogates import importance_sampled, value_and_slope
from trpo_cli.trust_region.constraint import mean_kl
from trpo_cli.trust_region.problem import Evaluation

PENALTY_RANGE = 1000.0  # an adaptive penalty stays within this factor of where it began


class _Loss(NamedTuple):
    """What one shard knows of the loss before the surrogate of all is known."""

    model: Linearisation
    log_prob: Tensor  # (M, K)
    others: Tensor  # scalar, what it adds apart from the surrogate
    slope: Tensor  # of `others` by the outputs of the model


@dataclass(kw_only=True, eq=False)
class FirstOrder(PolicyGradient):
    """Adam on surrogate and entropy bonus, and on the value loss too where the critic shares the hidden layers."""

    divided = ("minibatch_size",)  # among shards
    generator: torch.Generator
    learning_rate: Positive
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
        if self.minibatch_size is not None:
            self.shards.divide(self.minibatch_size, "algo.minibatch_size")
        shared = self.critic if isinstance(self.critic, SharedCritic) else None
        self.model: Policy | PolicyAndValue = self.policy if shared is None else PolicyAndValue(self.policy, shared)
        self.theta = share_memory(self.model)
        self.optimizer = Adam(len(self.theta)).to(self.theta.device, self.theta.dtype)
        self.penalty = self.kl_penalty  # C as it is now

    @property
    def only_at_first(self) -> tuple[str, ...]:
        return () if self.kl_penalty_target is None else ("kl_penalty",)

    def update(self, batch: Batch) -> tuple[Outcome, Metrics]:
        if self.kl_penalty_target is None:
            self.penalty = self.kl_penalty
        before = copy.deepcopy((self.theta, self.optimizer.state_dict()))
        outcome, epochs, reached = self._optimize(batch)
        metrics: Metrics = {"policy/epochs": float(epochs)}
        if self.kl_penalty:
            metrics["policy/kl_penalty"] = self.penalty
        if outcome is not Outcome.ACCEPTED:
            reached = None
            self.theta.copy_(before[0])
            self.optimizer.load_state_dict(before[1])
        elif reached is not None and self.kl_penalty_target is not None:
            self._adapt(mean_kl(reached.kl, batch.weight).item(), self.kl_penalty_target)
        return outcome, metrics | self.measure(batch, reached=reached)

    def _adapt(self, kl: float, target: float) -> None:
        """Double the penalty after a KL far above the target, halve it after one far below (PPO paper, section 4)."""
        if kl > 1.5 * target:
            self.penalty = min(2 * self.penalty, PENALTY_RANGE * self.kl_penalty)
        elif kl < target / 1.5:
            self.penalty = max(self.penalty / 2, self.kl_penalty / PENALTY_RANGE)

    def _optimize(self, batch: Batch) -> tuple[Outcome, int, Evaluation | None]:
        """Run the epochs; stop at the first loss or gradient that is not finite.

        Returns the number of epochs too, and the evaluation of the policy that they end with unless one has failed.
        """
        outcome = Outcome.ZERO_GRADIENT
        for epoch in range(1, self.epochs + 1):
            for minibatch in self._minibatches(batch):
                step = self._descend(minibatch)
                if step in (Outcome.NON_FINITE_LOSS, Outcome.NON_FINITE_GRADIENT):
                    return step, epoch, None
                outcome = min(outcome, step)  # ACCEPTED as soon as one minibatch moved the policy
            if self.target_kl is not None or epoch == self.epochs:
                reached, finite = self._evaluate(batch)
                if self.target_kl is not None and mean_kl(reached.kl, batch.weight) > self.target_kl:
                    break
        return outcome if finite else Outcome.NON_FINITE_LOSS, epoch, reached

    def _minibatches(self, batch: Batch) -> Iterator[Batch]:
        """Yield minibatches, to which each shard gives the same states as any other; sequences stay whole."""
        size = self.minibatch_size or len(batch)
        if size >= len(batch):
            yield batch
            return
        own = max(1, size // self.shards.count // batch.length)
        shuffled = batch.select(torch.randperm(batch.units, generator=self.generator).to(self.device))
        for start in range(0, batch.units, own):
            yield shuffled.select(slice(start, start + own))

    def _descend(self, batch: Batch) -> Outcome:
        """Take one step of Adam, unless the loss or the gradient is not finite, or the gradient is zero."""
        shards = self.shards
        columns = [shards.split(column) for column in (batch.weight, batch.return_)]
        told = shards.each(functools.partial(self._begin_loss, len(batch)), batch.states, *columns)
        (log_prob,) = shards.join([(one.log_prob,) for one in told])
        surrogate, by_log_prob = value_and_slope(self.objective, log_prob, batch)
        gradient, others = shards.sum(shards.each(self._pull_back, told, batch.states, shards.split(by_log_prob)))
        if not math.isfinite(others.item() - surrogate.item()):
            return Outcome.NON_FINITE_LOSS
        norm = gradient.norm().item()
        if not math.isfinite(norm):
            return Outcome.NON_FINITE_GRADIENT
        if norm == 0:
            return Outcome.ZERO_GRADIENT
        if self.max_gradient_norm is not None and norm > self.max_gradient_norm:
            gradient.mul_(self.max_gradient_norm / norm)
        self.optimizer.step(self.theta, gradient, self.learning_rate, self.adam_epsilon)
        return Outcome.ACCEPTED

    def _begin_loss(self, count: int, states: States, weight: Tensor, return_: Tensor) -> _Loss:
        """What one shard adds to the loss of `count` states apart from the surrogate, and what that asks for."""
        distribution, size = self.policy.distribution, states.old_parameters.shape[-1]
        model = self.model.linearise(states.observation)
        parameters = model.output[:, :size]
        log_prob = distribution.log_prob(parameters[:, None], states.action)
        others, slope = self.theta.new_zeros(()), torch.zeros_like(model.output)
        if self.entropy_coefficient or self.penalty:
            leaf = parameters.clone().requires_grad_()
            kl = (weight * distribution.kl(states.old_parameters, leaf)).sum() / count
            entropy = (weight * distribution.entropy(leaf)).sum() / count
            regular = self.penalty * kl - self.entropy_coefficient * entropy
            others, (slope[:, :size],) = others + regular.detach(), torch.autograd.grad(regular, leaf)
        if isinstance(self.model, PolicyAndValue):
            error, coefficient = model.output[:, size] - return_, self.model.critic.coefficient
            others = others + coefficient * error.square().sum() / count
            slope[:, size] = (coefficient * 2 / count) * error
        return _Loss(model, log_prob, others, slope)

    def _pull_back(self, loss: _Loss, states: States, by_log_prob: Tensor) -> tuple[Tensor, Tensor]:
        """What one shard adds to the gradient (D,), and to the loss apart from the surrogate.

        The outputs of the model are the parameters of the policy, and behind them the value, if it has one.
        """
        size = states.old_parameters.shape[-1]
        score = self.policy.distribution.score(loss.model.output[:, None, :size], states.action)
        loss.slope[:, :size] -= (by_log_prob[..., None] * score).sum(1)
        return loss.model.vjp(loss.slope), loss.others

    @torch.no_grad()
    def _evaluate(self, batch: Batch) -> tuple[Evaluation, bool]:
        """The policy as it is now on the whole batch; and whether it, the loss and the values are finite."""
        distribution = self.policy.distribution

        def describe(states: States) -> tuple[Tensor, ...]:
            output = self.model.infer(states.observation)
            new = output[:, : states.old_parameters.shape[-1]]
            kl = distribution.kl(states.old_parameters, new)
            return distribution.log_prob(new[:, None], states.action), kl, output.isfinite().all(-1).to(kl.dtype)

        log_prob, kl, finite = self.shards.join(self.shards.each(describe, batch.states))
        reached = Evaluation(importance_sampled(log_prob, batch), kl)
        checked = [self.theta, reached.kl, self.objective(log_prob, batch)]
        return reached, bool(finite.all()) and all(x.isfinite().all() for x in checked)

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
