"""One iteration of every sampled policy-gradient method, on one screen: collect, estimate, fit the critic, update."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trpo_cli.algos import Iteration, Metrics, Outcome
from trpo_cli.algos.objective import fitting_surrogate, refuse_too_few_actions
from trpo_cli.algos.patience import PatientAlgorithm
from trpo_cli.data import Advantage, Batch, Observations, Sample, States
from trpo_cli.errors import ConfigError
from trpo_cli.models.critics import Accompanied, Critic, Fitted, ZeroCritic, explained_variance
from trpo_cli.models.linearisation import flat
from trpo_cli.models.policies import Policy
from trpo_cli.ranges import UnitInterval
from trpo_cli.samplers import PolicySampler
from trpo_cli.shards import ONE, Shards
from trpo_cli.surrogates import Surrogate, importance_sampled
from trpo_cli.trust_region.constraint import max_kl, mean_kl
from trpo_cli.trust_region.problem import Evaluation

Infer = Callable[[Observations], Tensor]


class Lesson(NamedTuple):
    """What the critic learns from: numbers of all shards in their order, and the observations of this process."""

    observations: Sequence[Observations]  # (M, O) each
    value: Tensor  # (shards * M,), V(s) by the critic
    return_: Tensor  # (shards * M,), the critic's target


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
    shards: Shards = ONE

    def __post_init__(self) -> None:
        self.objective = self.surrogate or fitting_surrogate(self.sampler)
        refuse_too_few_actions(self.objective, self.sampler)
        self._check_memory()
        if not self.sampler.random and not isinstance(self.critic, ZeroCritic):
            raise ConfigError("critic: values are exact with this sampler, and no critic would be used; critic=zero")

    def _check_memory(self) -> None:
        """Raise `ConfigError` if the sampler cannot carry the memory, or was told about one that there is not."""
        remembers = bool(self.policy.memory_size or self.critic.memory_size)
        if remembers and not self.sampler.carries_memory:
            parts = {"policy": self.policy, "critic": self.critic}
            group = next(name for name, part in parts.items() if part.memory_size)
            raise ConfigError(
                f"{group}: this one remembers earlier states, and {type(self.sampler).__name__} takes each by itself; "
                "sampler=single_path and sampler=vine follow episodes"
            )
        if not remembers and self.sampler.only_for_memory:
            raise ConfigError(
                f"sampler.{self.sampler.only_for_memory[0]}: takes effect only with a memory; policy=gru has one"
            )
        # What the critic remembers is carried along with what the policy does.
        self.actor = Accompanied(self.policy, self.critic) if self.critic.memory_size else self.policy

    @property
    def device(self) -> torch.device:
        """Where the update runs."""
        return next(self.policy.parameters()).device

    def iterate(self) -> Iteration:
        self._check_patience()
        start = time.perf_counter()
        samples = self.sampler.collect(self.actor)
        sampled = time.perf_counter()
        batch, lesson = self.estimate([sample.to(self.device) for sample in samples])
        if isinstance(self.critic, Fitted):  # perhaps in the helper process, during the update
            self.critic.fit(lesson.observations, lesson.return_)
        outcome, metrics = self.update(batch)
        metrics |= {
            "critic/explained_variance": explained_variance(lesson.value, lesson.return_),
            "critic/loss": nn.functional.mse_loss(lesson.value, lesson.return_).item(),
        }
        self._note(outcome)
        judged = samples[0].judge(self.policy)
        metrics = {**self.sampler.metrics(), **judged, **metrics, **outcome.metrics()}
        return Iteration(self.sampler.env_steps, sampled - start, time.perf_counter() - sampled, metrics)

    @torch.no_grad()
    def estimate(self, samples: Sequence[Sample]) -> tuple[Batch, Lesson]:
        """What the samples say of the policy, and of the values that the critic will learn."""
        shards, discount = self.shards, self.gamma if self.discount_states else 1.0

        def look(sample: Sample) -> tuple[States, Observations, tuple[Tensor, ...]]:
            found, visited = sample.estimate(self.critic.predict, self.advantage, self.gamma, discount)
            states = States(found.observation, found.action, self.policy.infer(found.observation))
            of_states = (found.advantage, found.return_, found.weight, found.log_weight)
            numbers = (visited.value, visited.return_, *of_states, *self.describe(states.old_parameters, states))
            return states, visited.observation, numbers

        states, observations, numbers = zip(*shards.each(look, samples), strict=True)
        value, target, advantage, return_, weight, log_weight, log_prob, entropy = shards.join(numbers)
        if self.normalize_advantage:
            advantage = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
        batch = Batch(
            states=states,
            advantage=advantage,
            return_=return_,
            weight=weight / weight.mean(),
            old_entropy=entropy,
            old_log_prob=log_prob,
            log_q=log_prob - log_weight,
        )
        return batch, Lesson(observations, value, target)

    def describe(self, parameters: Tensor, states: States) -> tuple[Tensor, Tensor]:
        """log pi(a|s) (M, K) and the entropy (M,) of the policy that has these `parameters` (M, P) there."""
        distribution = self.policy.distribution
        return distribution.log_prob(parameters[:, None], states.action), distribution.entropy(parameters)

    @abstractmethod
    def update(self, batch: Batch) -> tuple[Outcome, Metrics]:
        """Move the policy, or leave it bit for bit what it was and say why; the metrics include those of `measure`."""

    def bonus(self, entropy: Tensor, batch: Batch) -> Tensor | float:
        """What is maximised apart from the surrogate, given the entropy (S,) of a policy in each state."""
        return 0.0

    def gradient(self, batch: Batch) -> Tensor:
        """The gradient (D,) of surrogate and bonus at the policy that sampled the batch."""
        shards, theta = self.shards, flat(self.policy).requires_grad_()

        def describe(states: States) -> tuple[Tensor, Tensor]:
            outputs = self.policy.outputs(theta, states.observation, known=states.old_parameters)
            return self.describe(outputs, states)

        moving = shards.each(describe, batch.states)
        leaves = [column.detach().requires_grad_() for column in shards.join(moving)]
        merit = self.objective(leaves[0], batch) + self.bonus(leaves[1], batch)
        slopes = torch.autograd.grad(merit, leaves, allow_unused=True)
        used = [i for i, slope in enumerate(slopes) if slope is not None]
        shares = [shards.split(slopes[i]) for i in used]
        pulled = shards.each(
            lambda columns, *share: torch.autograd.grad([columns[i] for i in used], theta, share), moving, *shares
        )
        return shards.sum(pulled)[0]

    def evaluate(self, batch: Batch, infer: Infer, surrogate: Surrogate = importance_sampled) -> Evaluation:
        """The surrogate with the bonus, and the KL from the old policy, of the one whose outputs `infer` computes."""

        def describe(states: States) -> tuple[Tensor, ...]:
            outputs = infer(states.observation)
            kl = self.policy.distribution.kl(states.old_parameters, outputs)
            return *self.describe(outputs, states), kl

        log_prob, entropy, kl = self.shards.join(self.shards.each(describe, batch.states))
        bonus = self.bonus(entropy, batch)
        return Evaluation(surrogate(log_prob, batch) + bonus, kl, bonus)

    @torch.no_grad()
    def measure(
        self, batch: Batch, surrogate: Surrogate = importance_sampled, reached: Evaluation | None = None
    ) -> Metrics:
        """What the update did to the policy, on the whole batch; the entropy is that of the policy which sampled it.

        `reached` is the evaluation of the policy as it is now, for an update that has made it already.
        """
        if reached is None:
            reached = self.evaluate(batch, self.policy.infer, surrogate)
        return {
            "policy/kl": mean_kl(reached.kl, batch.weight).item(),
            "policy/max_kl": max_kl(reached.kl, batch.weight).item(),
            "policy/entropy": (batch.weight * batch.old_entropy).mean().item(),
            "policy/surrogate_improvement": (
                reached.objective - reached.bonus - surrogate(batch.old_log_prob, batch)
            ).item(),
        }
