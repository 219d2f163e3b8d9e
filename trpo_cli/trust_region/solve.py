"""The search direction: A x = g solved with products A v alone (the TRPO paper, appendix C)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trpo_cli.trust_region.geometry import MatVec


class Solution(NamedTuple):
    """An approximate solution of A x = b."""

    x: Tensor  # (D,)
    residual: float  # ||b - A x|| / ||b||
    iterations: int


def conjugate_gradient(product: MatVec, b: Tensor, iterations: int, tolerance: float) -> Solution:
    """Take at most `iterations` steps of conjugate gradient from x = 0, for a symmetric positive definite A.

    Stops early when the relative residual is at most `tolerance`, or when the curvature along a step is not positive.
    In that case A is not positive definite to working precision, and x is what the steps before have reached.
    """
    x = torch.zeros_like(b)
    residual = b.clone()
    direction = b.clone()
    norm_squared = initial = residual.dot(residual)
    done = 0
    while done < iterations and (norm_squared > tolerance**2 * initial).item():
        a_direction = product(direction)
        curvature = direction.dot(a_direction)
        if not (curvature > 0).item():
            break
        length = norm_squared / curvature
        x = x + length * direction
        residual = residual - length * a_direction
        previous, norm_squared = norm_squared, residual.dot(residual)
        direction = residual + (norm_squared / previous) * direction
        done += 1
    return Solution(x, (norm_squared / initial).sqrt().item(), done)
