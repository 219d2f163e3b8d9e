"""Action distributions as pure functions of their parameters.

A distribution here is a family: it knows its layout, and every method takes the parameters (B, P) that a policy gives
for B states; `log_prob` and `score` also take parameters (S, 1, P) with K actions in each state, (S, K, A). The Fisher
matrix of the family in its own parameters is the M of F = J^T M J (the TRPO paper, appendix C.1). The two families are
those of its appendix D.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


class Distribution(Protocol):
    """What a policy's family of distributions can do. B states, P parameters per state, A numbers per action."""

    network_size: int  # the parameters that depend on the state, which a network computes

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """The random numbers (*shape, K) with which `sample` draws one action for each place of `shape`."""

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """Actions (B, A) from noise (B, K); the same parameters and noise give the same action."""

    def mode(self, parameters: Tensor) -> Tensor:
        """The likeliest actions (B, A)."""

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        """log pi(a|s) (B,), in nats."""

    def score(self, parameters: Tensor, action: Tensor) -> Tensor:
        """The gradient (B, P) of `log_prob` with respect to the parameters."""

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        """D_KL(old || new) (B,), in nats."""

    def entropy(self, parameters: Tensor) -> Tensor:
        """Entropy (B,), in nats."""

    def fisher(self, parameters: Tensor, vector: Tensor) -> Tensor:
        """M v (B, P): the Hessian of `kl` in its second argument, at equal arguments, times `vector` (B, P)."""


class DiagonalGaussian:
    """Independent normal actions. Parameters (B, 2A): means, then log standard deviations."""

    def __init__(self, size: int) -> None:
        self.network_size = size

    def __repr__(self) -> str:
        return f"DiagonalGaussian({self.network_size})"

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = parameters.split(self.network_size, dim=-1)
        return mean, log_std

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randn(*shape, self.network_size, generator=generator)

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        mean, log_std = self._split(parameters)
        return torch.addcmul(mean, log_std.exp(), noise)

    def mode(self, parameters: Tensor) -> Tensor:
        return self._split(parameters)[0]

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        mean, log_std = self._split(parameters)
        standard = (action - mean) * (-log_std).exp()
        return -(0.5 * standard.square() + log_std + 0.5 * LOG_2PI).sum(-1)

    def score(self, parameters: Tensor, action: Tensor) -> Tensor:
        mean, log_std = self._split(parameters)
        precision = (-log_std).exp()
        standard = (action - mean) * precision
        return torch.cat([standard * precision, standard.square() - 1], dim=-1)

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        old_mean, old_log_std = self._split(old)
        new_mean, new_log_std = self._split(new)
        scaled = (2 * (old_log_std - new_log_std)).exp() + ((old_mean - new_mean) * (-new_log_std).exp()).square()
        return (new_log_std - old_log_std + 0.5 * (scaled - 1)).sum(-1)

    def entropy(self, parameters: Tensor) -> Tensor:
        _, log_std = self._split(parameters)
        return (log_std + 0.5 * (LOG_2PI + 1)).sum(-1)

    def fisher(self, parameters: Tensor, vector: Tensor) -> Tensor:
        _, log_std = self._split(parameters)
        mean_part, log_std_part = self._split(vector)
        return torch.cat([mean_part * (-2 * log_std).exp(), 2 * log_std_part], dim=-1)


class Categorical:
    """A product of independent categoricals, one for each factor of the action.

    Parameters (B, sum of sizes): the logits of each factor in turn. Actions (B, number of factors) int64. The
    log-probabilities, KLs and entropies of the factors add up; a single factor is the ordinary categorical.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = tuple(int(size) for size in sizes)
        self.network_size = sum(self.sizes)

    def __repr__(self) -> str:
        return f"Categorical({list(self.sizes)})"

    def _log_probs(self, parameters: Tensor) -> list[Tensor]:
        """Normalised log-probabilities of each factor: a list of (B, size)."""
        return [logits.log_softmax(-1) for logits in parameters.split(self.sizes, dim=-1)]

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.rand(*shape, len(self.sizes), generator=generator)

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        # Inverse transform: one uniform number per factor, so that the noise does not depend on the probabilities.
        factors = []
        for log_p, uniform in zip(self._log_probs(parameters), noise.split(1, dim=-1), strict=True):
            cumulative = log_p.exp().cumsum(-1)
            index = torch.searchsorted(cumulative, uniform * cumulative[..., -1:], right=True)
            factors.append(index.clamp(max=log_p.shape[-1] - 1))
        return torch.cat(factors, dim=-1)

    def mode(self, parameters: Tensor) -> Tensor:
        return torch.stack([log_p.argmax(-1) for log_p in self._log_probs(parameters)], dim=-1)

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        factors = zip(self._log_probs(parameters), action.split(1, dim=-1), strict=True)
        return torch.stack([_expand(log_p, a).gather(-1, a).squeeze(-1) for log_p, a in factors]).sum(0)

    def score(self, parameters: Tensor, action: Tensor) -> Tensor:
        scores = []
        for log_p, a in zip(self._log_probs(parameters), action.split(1, dim=-1), strict=True):
            minus_p = -_expand(log_p, a).exp()
            scores.append(minus_p.scatter_add(-1, a, torch.ones_like(minus_p[..., :1])))  # one_hot(a) - p
        return torch.cat(scores, dim=-1)

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        factors = zip(self._log_probs(old), self._log_probs(new), strict=True)
        return torch.stack([(p.exp() * (p - q)).sum(-1) for p, q in factors]).sum(0)

    def entropy(self, parameters: Tensor) -> Tensor:
        return torch.stack([-(p.exp() * p).sum(-1) for p in self._log_probs(parameters)]).sum(0)

    def fisher(self, parameters: Tensor, vector: Tensor) -> Tensor:
        factors = []
        for log_p, v in zip(self._log_probs(parameters), vector.split(self.sizes, dim=-1), strict=True):
            p = log_p.exp()
            factors.append(p * (v - (p * v).sum(-1, keepdim=True)))  # (diag(p) - p p^T) v
        return torch.cat(factors, dim=-1)


def _expand(log_p: Tensor, action: Tensor) -> Tensor:
    """Repeat `log_p` (..., size) for each of the actions (..., 1)."""
    return log_p.expand(*action.shape[:-1], -1)
