"""How the KL divergences of many states become the one number that must stay below delta.

Sums are taken in double precision, so that the number compared with delta is the one that is reported.
"""

from __future__ import annotations

from torch import Tensor


def mean_kl(kl: Tensor, weight: Tensor) -> Tensor:
    """The average over states drawn from the old policy (the TRPO paper, equation 12). `kl` and `weight` are (S,)."""
    return (kl.double() * weight.double()).mean()


def max_kl(kl: Tensor, weight: Tensor) -> Tensor:
    """The largest over the sampled states, whatever their weight (the TRPO paper, equation 11)."""
    return kl.double().max()
