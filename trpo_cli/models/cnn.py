"""Networks that read images, with passes written out in `convolutions.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trpo_cli.data import Observations, ObservationSpec, Steps, read, steps
from trpo_cli.models.convolutions import Convolution, Convolutions, ImagePasses
from trpo_cli.models.linearisation import Linearisation, outputs
from trpo_cli.models.mlp import MLP, Act
from trpo_cli.models.passes import Activation
from trpo_cli.threads import in_order


class CNN(nn.Module):
    """Convolutions, and an MLP that reads their features. It reads observations as they are stored."""

    works_in_pieces: ClassVar[bool] = True
    memory_size: ClassVar[int] = 0

    def __init__(
        self,
        observation: ObservationSpec,
        convolutions: Sequence[Convolution],
        hidden_sizes: Sequence[int],
        outputs: int,
        activation: Activation,
        output_gain: float,
        role: str,
    ) -> None:
        """Raises `ConfigError`, which names the group `role`, if the images are too small for the convolutions."""
        super().__init__()
        self.convolutions = Convolutions(observation, convolutions, activation, role)
        self.rest = MLP(self.convolutions.size, hidden_sizes, outputs, activation, output_gain)
        self.feature_size = self.rest.feature_size
        self._activation: Activation = activation

    @property
    def head(self) -> nn.Linear:
        return self.rest.head

    def forward(self, observation: Tensor) -> Tensor:
        return self.rest(self.convolutions(observation))  # type: ignore[no-any-return]

    def features(self, observation: Tensor) -> Tensor:
        return self.rest.features(self.convolutions(observation))

    def infer(self, observation: Observations) -> Tensor:
        return self.passes(self.head)(steps(observation))

    def infer_each(self, thetas: Tensor, observation: Tensor) -> Tensor:
        passes, rows = self.passes(self.head), zip(thetas, observation, strict=True)
        return torch.cat([*in_order(lambda row: passes.with_parameters(row[0])(row[1][None]), rows)])

    def infer_head(self, head: nn.Linear, observation: Observations) -> Tensor:
        return self.passes(head)(steps(observation))

    def infer_with(self, head: nn.Linear, observation: Observations) -> Tensor:
        return self.passes(self.head, head)(steps(observation))

    def acting(self) -> Act:
        passes = self.passes(self.head)
        return lambda observation, memory: (passes(torch.from_numpy(observation)).numpy(), memory)

    def linearise(self, observation: Observations) -> Linearisation:
        return self.passes(self.head).linearise(steps(observation))

    def linearise_with(self, head: nn.Linear, observation: Observations) -> Linearisation:
        return self.passes(self.head, head).linearise(steps(observation))

    def linearising(self, rows: int) -> Callable[[Observations], Linearisation]:
        return self.linearise

    def outputs(self, theta: Tensor, observation: Observations, known: Tensor | None = None) -> Tensor:
        return InPieces.apply(theta, self, steps(observation), known)  # type: ignore[no-any-return, no-untyped-call]

    def passes(self, *heads: nn.Linear) -> ImagePasses:
        """The network as it is now, with these heads, until its parameters change."""
        return ImagePasses.write_out(self.convolutions, self.rest.trunk.linear, heads, self._activation)


class InPieces(torch.autograd.Function):
    """The outputs (B, P) of a `CNN` with the parameters `theta` (D,), as a step of automatic differentiation.

    The way back goes forward again over each piece, so that nothing is kept; outputs that are `known` are not computed.
    A gradient that is to be differentiated, too, comes from a graph that holds all activations of the batch.
    """

    @staticmethod
    def forward(ctx: Any, theta: Tensor, network: CNN, observation: Steps, known: Tensor | None) -> Tensor:
        ctx.save_for_backward(theta)
        ctx.network, ctx.observation = network, observation
        ctx.passes = network.passes(network.head).with_parameters(theta)
        return ctx.passes(observation) if known is None else known.clone()

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor, None, None, None]:
        if not torch.is_grad_enabled():
            return ctx.passes.pull_back(ctx.observation, u), None, None, None
        (theta,) = ctx.saved_tensors
        output = outputs(ctx.network, theta, read(ctx.observation))
        return torch.autograd.grad(output, theta, u, create_graph=True)[0], None, None, None
