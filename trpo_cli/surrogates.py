"""Estimators of the surrogate L(theta) from a batch: what an update of the policy makes larger.

Each takes `log_prob` (B,), log pi_theta(a|s) of the batch's actions, and the batch; each returns a scalar.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trpo_cli.data import Batch
from trpo_cli.ranges import Positive


def importance_sampled(log_prob: Tensor, batch: Batch) -> Tensor:
    """The mean of pi_theta / pi_old times the advantage (seed 004, equation 31, with q = pi_old).

    At theta_old its gradient is the policy gradient, the mean of grad log pi times the advantage.
    """
    ratio = (log_prob - batch.old_log_prob).exp()
    return (batch.weight * ratio * batch.advantage).mean()


def clipped(log_prob: Tensor, batch: Batch, *, clip: Positive) -> Tensor:
    """The mean of min(rho A, clip(rho, 1 - clip, 1 + clip) A), pessimistic (Schulman et al. 2017, equation 7)."""
    ratio = (log_prob - batch.old_log_prob).exp()
    kept = ratio.clamp(1 - clip, 1 + clip)
    return (batch.weight * torch.minimum(ratio * batch.advantage, kept * batch.advantage)).mean()
