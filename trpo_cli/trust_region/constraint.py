"""How the KL divergences of many states become the one number that must stay below delta.

Sums are taken in double precision, so that the number compared with delta is the one that is reported.
"""

from __future__ import annotations

from torch import Tensor


def mean_kl(kl: Tensor, weight: Tensor) -> Tensor:
    """The average over states drawn from the old policy (seed 004, equation 27). `kl` and `weight` (S,)."""
    return (kl.double() * weight.double()).mean()


def max_kl(kl: Tensor, weight: Tensor) -> Tensor:
    """The largest over the states at hand (seed 004, equation 25), whatever their weight."""
    return kl.double().max()
