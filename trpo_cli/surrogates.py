"""Estimators of the surrogate objective L(theta) from a batch, which policy updates maximise.

Each takes `log_prob` (S, K), log pi_theta(a|s) of the batch's actions, and the batch. Each returns a scalar estimate of
the mean over states of E_{a ~ pi_theta} A(s, a); the last two return a log-likelihood that replaces it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trpo_cli.data import Batch
from trpo_cli.ranges import Positive

Surrogate = Callable[[Tensor, Batch], Tensor]


def _mean(batch: Batch, value: Tensor) -> Tensor:
    """The weighted mean over states of `value` (S, K) averaged over the actions."""
    return (batch.weight * value.mean(-1)).mean()


def importance_sampled(log_prob: Tensor, batch: Batch) -> Tensor:
    """The mean of pi_theta / q times the advantage (the TRPO paper, equation 14).

    At theta_old, with q = pi_old, its gradient is the policy gradient, the mean of grad log pi times the advantage.
    """
    return _mean(batch, (log_prob - batch.log_q).exp() * batch.advantage)


def clipped(log_prob: Tensor, batch: Batch, *, clip: Positive) -> Tensor:
    """The mean of min(rho A, clip(rho, 1 - clip, 1 + clip) A) with rho = pi_theta / pi_old.

    This pessimistic bound is the objective of PPO (Schulman et al. 2017, equation 7).
    """
    ratio = (log_prob - batch.old_log_prob).exp()
    kept = ratio.clamp(1 - clip, 1 + clip)
    return _mean(batch, _old(batch) * torch.minimum(ratio * batch.advantage, kept * batch.advantage))


def self_normalised(log_prob: Tensor, batch: Batch) -> Tensor:
    """sum_k w_k A_k / sum_k w_k in each state, with w = pi_theta / q (the TRPO paper, equation 16).

    Adding a constant to all A_k of a state does not change the gradient, so no baseline is needed. With few actions,
    the ratio of the sums underestimates the improvement: at theta_old, by the factor 1 - 1/K if q = pi_old.
    """
    share = (log_prob - batch.log_q).softmax(-1)
    return (batch.weight * (share * batch.advantage).sum(-1)).mean()


def full_action_sum(log_prob: Tensor, batch: Batch) -> Tensor:
    """sum_a pi_theta(a|s) A(s, a) in each state, over all actions of a finite set (the TRPO paper, equation 15)."""
    return (batch.weight * (log_prob.exp() * batch.advantage).sum(-1)).mean()


def log_likelihood(log_prob: Tensor, batch: Batch) -> Tensor:
    """The mean of log pi_theta times the advantage, as in actor-critic (Mnih et al. 2016); valid for a single step."""
    return _mean(batch, _old(batch) * log_prob * batch.advantage)


def reward_weighted(log_prob: Tensor, batch: Batch, *, temperature: Positive) -> Tensor:
    """The log-likelihood of the sampled actions with weights exp(advantage / temperature), scaled to mean one.

    Without a critic, where the advantage is the return, this is reward-weighted regression (Peters and Schaal 2007);
    with one, it is advantage-weighted regression (Peng et al. 2019).
    """
    merit = batch.advantage / temperature + batch.old_log_prob - batch.log_q
    share = merit.flatten().softmax(0).view_as(merit) * merit.numel()
    return _mean(batch, share * log_prob)


def _old(batch: Batch) -> Tensor:
    """pi_old / q (S, K)."""
    return (batch.old_log_prob - batch.log_q).exp()


def value_and_slope(surrogate: Surrogate, log_prob: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """The estimate, and its gradient (S, K) by `log_prob`.

    For some it is written out, bit for bit the automatic one: that takes a third off a minibatch of PPO.
    """
    written_out = WRITTEN_OUT.get(getattr(surrogate, "func", surrogate))
    if written_out is not None:
        return written_out(log_prob, batch, **getattr(surrogate, "keywords", {}))
    leaf = log_prob.detach().requires_grad_()
    value = surrogate(leaf, batch)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def _importance_sampled(log_prob: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    ratio = (log_prob - batch.log_q).exp()
    return _mean(batch, ratio * batch.advantage), _share(batch) * batch.advantage * ratio


def _clipped(log_prob: Tensor, batch: Batch, *, clip: float) -> tuple[Tensor, Tensor]:
    ratio, old = (log_prob - batch.old_log_prob).exp(), _old(batch)
    whole, kept = ratio * batch.advantage, ratio.clamp(1 - clip, 1 + clip) * batch.advantage
    slope = (_share(batch) * old * batch.advantage * ratio).masked_fill_(whole > kept, 0.0)
    return _mean(batch, old * torch.minimum(whole, kept)), slope


def _log_likelihood(log_prob: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    old = _old(batch)
    return _mean(batch, old * log_prob * batch.advantage), _share(batch) * batch.advantage * old


def _share(batch: Batch) -> Tensor:
    """The gradient (S, K) of `_mean` by its values."""
    states, actions = batch.advantage.shape
    return (1 / states * batch.weight / actions)[:, None]


WRITTEN_OUT: dict[Any, Callable[..., tuple[Tensor, Tensor]]] = {
    importance_sampled: _importance_sampled,
    clipped: _clipped,
    log_likelihood: _log_likelihood,
}
