"""Adam on one vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Adam(nn.Module):
    """torch's fused Adam on one vector (D,). It calls the kernel directly: the optimiser class takes far longer."""

    first: Tensor
    second: Tensor
    steps: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("first", torch.zeros(size))  # moments
        self.register_buffer("second", torch.zeros(size))
        self.register_buffer("steps", torch.zeros(()))

    @torch.no_grad()
    def step(self, theta: Tensor, gradient: Tensor, learning_rate: float, epsilon: float = 1e-8) -> None:
        """Take one step of descent, in place in `theta`."""
        torch._fused_adam_(
            *([theta], [gradient], [self.first], [self.second], [], [self.steps.add_(1)]),
            lr=learning_rate,
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,
            eps=epsilon,
            amsgrad=False,
            maximize=False,
        )
