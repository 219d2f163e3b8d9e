"""Estimators of the surrogate L(theta) from a batch: what an update of the policy makes larger.

Each takes `log_prob` (S, K), log pi_theta(a|s) of the batch's actions, and the batch; each returns a scalar: an
estimate of the mean over states of E_{a ~ pi_theta} A(s, a), or in the last two a log-likelihood that stands for it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trpo_cli.data import Batch
from trpo_cli.ranges import Positive

Surrogate = Callable[[Tensor, Batch], Tensor]


def _mean(batch: Batch, value: Tensor) -> Tensor:
    """The weighted mean over states of `value` (S, K) averaged over the actions."""
    return (batch.weight * value.mean(-1)).mean()


def importance_sampled(log_prob: Tensor, batch: Batch) -> Tensor:
    """The mean of pi_theta / q times the advantage (seed 004, equation 31).

    At theta_old its gradient is the policy gradient, the mean of grad log pi times the advantage where q = pi_old.
    """
    return _mean(batch, (log_prob - batch.log_q).exp() * batch.advantage)


def clipped(log_prob: Tensor, batch: Batch, *, clip: Positive) -> Tensor:
    """The mean of min(rho A, clip(rho, 1 - clip, 1 + clip) A), pessimistic (Schulman et al. 2017, equation 7)."""
    ratio = (log_prob - batch.old_log_prob).exp()
    kept = ratio.clamp(1 - clip, 1 + clip)
    return _mean(batch, _old(batch) * torch.minimum(ratio * batch.advantage, kept * batch.advantage))


def self_normalised(log_prob: Tensor, batch: Batch) -> Tensor:
    """sum_k w_k A_k / sum_k w_k in each state, with w = pi_theta / q (seed 004, equation 33).

    A number added to every A_k of a state changes no gradient, so no baseline is needed. With few actions the ratio of
    the two sums is biased towards no improvement: at theta_old, by a factor 1 - 1/K where q = pi_old.
    """
    share = (log_prob - batch.log_q).softmax(-1)
    return (batch.weight * (share * batch.advantage).sum(-1)).mean()


def full_action_sum(log_prob: Tensor, batch: Batch) -> Tensor:
    """sum_a pi_theta(a|s) A(s, a) in each state, over every action of a finite set (seed 004, equation 32)."""
    return (batch.weight * (log_prob.exp() * batch.advantage).sum(-1)).mean()


def log_likelihood(log_prob: Tensor, batch: Batch) -> Tensor:
    """The mean of log pi_theta times the advantage: actor-critic (Mnih et al. 2016), good for one step."""
    return _mean(batch, _old(batch) * log_prob * batch.advantage)


def reward_weighted(log_prob: Tensor, batch: Batch, *, temperature: Positive) -> Tensor:
    """The log-likelihood of the sampled actions, each weighing exp(advantage / temperature), weights of mean one.

    Reward-weighted regression (Peters and Schaal 2007) where the critic is zero, and the advantage a return;
    with a critic, advantage-weighted regression (Peng et al. 2019).
    """
    merit = batch.advantage / temperature + batch.old_log_prob - batch.log_q
    share = merit.flatten().softmax(0).view_as(merit) * merit.numel()
    return _mean(batch, share * log_prob)


def _old(batch: Batch) -> Tensor:
    """pi_old / q (S, K)."""
    return (batch.old_log_prob - batch.log_q).exp()
