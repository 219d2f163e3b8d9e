"""Networks that remember: an encoder of the observation, a memory cell, and an MLP that reads what the cell shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trpo_cli.data import Observations, Sequences, read
from trpo_cli.models.cells import CELLS, CellPasses, Memory
from trpo_cli.models.cnn import CNN
from trpo_cli.models.convolutions import ImagePasses
from trpo_cli.models.layers import ACTIVATIONS, FEW, write_out, write_out_each
from trpo_cli.models.linearisation import Linearisation, linearise, outputs, size
from trpo_cli.models.mlp import MLP, Act, Values, vectors
from trpo_cli.models.passes import TORCH_CURVES, Activation, Passes, affine, sigmoid
from trpo_cli.models.recurrence import RecurrentPasses


class RNN(nn.Module):
    """It reads `Sequences`, in whose memory its own numbers come after the first `skipped` ones.

    The encoder, if there is one, is a network whose outputs go through one more activation.
    """

    def __init__(
        self,
        encoder: MLP | CNN | None,
        inputs: int,
        memory: Memory,
        memory_size: int,
        memory_span: int | None,
        hidden_sizes: Sequence[int],
        outputs: int,
        activation: Activation,
        output_gain: float,
        skipped: int,
    ) -> None:
        """The cell has `memory_size` units and reads `inputs` numbers, of the encoder or of the observation."""
        super().__init__()
        self.encoder = encoder
        self.works_in_pieces = isinstance(encoder, CNN)  # as of a policy
        self.cell = CELLS[memory](inputs, memory_size, memory_span)
        self.rest = MLP(memory_size, hidden_sizes, outputs, activation, output_gain)
        self.feature_size, self.memory_size = self.rest.feature_size, self.cell.memory_size
        self._place = slice(skipped, skipped + self.memory_size)
        self._activation: Activation = activation
        self._activate = ACTIVATIONS[activation]()

    @property
    def head(self) -> nn.Linear:
        return self.rest.head

    def forward(self, observation: Sequences) -> Tensor:
        return self.rest(self._remember(observation))  # type: ignore[no-any-return]

    def features(self, observation: Sequences) -> Tensor:
        """What the head reads (B, `feature_size`)."""
        return self.rest.features(self._remember(observation))

    def _remember(self, observation: Sequences) -> Tensor:
        """What the cell shows in the steps that count (B, H), differentiable."""
        every = observation.seen.flatten(0, 1)
        features = vectors(every) if self.encoder is None else self._activate(self.encoder(read(every)))
        by_step = features.unflatten(0, observation.begins.shape).unbind(1)
        memory = start = observation.memory[:, self._place].to(features.dtype)
        shown = []
        for t, now in enumerate(by_step):
            memory = memory.masked_fill(observation.begins[:, t, None], 0.0)
            memory = self.cell(now, torch.where((observation.first == t)[:, None], start, memory))
            shown.append(memory[:, : self.cell.size])
        return torch.stack(shown[-observation.length :], 1).flatten(0, 1)

    def infer(self, observation: Observations) -> Tensor:
        """`forward` (B, P) without a graph."""
        return self._infer(observation, self.head)

    def infer_head(self, head: nn.Linear, observation: Observations) -> Tensor:
        """What another head (B, out) makes of the features, without a graph."""
        return self._infer(observation, head)

    def infer_with(self, head: nn.Linear, observation: Observations) -> Tensor:
        """The outputs of the network, and behind them those of another head, without a graph."""
        return self._infer(observation, self.head, head)

    @torch.no_grad()
    def _infer(self, observation: Observations, *heads: nn.Linear) -> Tensor:
        assert isinstance(observation, Sequences)
        if self._is_on_cpu:
            return self.passes(*heads)(observation)
        features = self.features(observation)
        return torch.cat([head(features) for head in heads], -1)

    def acting(self) -> Act:
        """From observations (N, O) and memory (N, M) to outputs and memory, while the parameters stay as they are."""
        passes = self.passes(self.head)

        def act(observation: Values, memory: Values) -> tuple[Values, Values]:
            after = passes.follow(observation, memory)
            return passes.output(after), after

        return act

    def following(self) -> Callable[[Values, Values], Values]:
        """From observations (N, O) and its own memory (N, M) to the memory after them."""
        return self.passes(self.head).follow

    def acting_each(self, thetas: Tensor) -> Act:
        """`acting`, each row with the parameters in its row of `thetas` (N, D)."""
        cell, encoder, curve = self.cell, self.encoder, TORCH_CURVES[self._activation]
        of_encoder, of_cell, of_rest = thetas.split([_size(encoder), size(cell), size(self.rest)], 1)
        linear = write_out_each([cell.read, cell.recall], 0, self._activation, of_cell)
        rest = write_out_each(self.rest.linear, len(self.rest.linear) - 1, self._activation, of_rest)

        def act(observation: Values, memory: Values) -> tuple[Values, Values]:
            seen = torch.from_numpy(observation)
            features = vectors(seen) if encoder is None else curve.value(encoder.infer_each(of_encoder, seen))
            layers = zip((features.numpy(), memory[:, : cell.size]), linear.weights, linear.biases, strict=True)
            read, recalled = (affine(x[:, None], *layer).reshape(len(x), *cell.shape) for x, *layer in layers)
            after, _ = cell.step(read, recalled, memory, sigmoid, np.tanh)
            return rest(after[:, None, : cell.size])[:, 0], after

        return act

    def linearise(self, observation: Observations) -> Linearisation:
        """Outputs and products."""
        return self._linearise(observation, self.head) or linearise(self, observation)

    def linearise_with(self, head: nn.Linear, observation: Observations) -> Linearisation | None:
        """The same with another head, as `infer_with`; None where automatic differentiation has to do it."""
        return self._linearise(observation, self.head, head)

    @torch.no_grad()
    def _linearise(self, observation: Observations, *heads: nn.Linear) -> Linearisation | None:
        assert isinstance(observation, Sequences)
        return self.passes(*heads).linearise(observation) if self._is_on_cpu else None

    def linearising(self, rows: int) -> Callable[[Observations], Linearisation]:
        """`linearise`, while the parameters change in place."""
        return self.linearise

    def outputs(self, theta: Tensor, observation: Observations, known: Tensor | None = None) -> Tensor:
        """`forward` (B, P) with the parameters `theta` (D,), with a graph."""
        if known is None or not self._is_on_cpu:
            return outputs(self, theta, observation)
        return WrittenOut.apply(theta, self, observation, known)  # type: ignore[no-any-return, no-untyped-call]

    @property
    def _is_on_cpu(self) -> bool:
        return self.head.weight.device.type == "cpu"

    def passes(self, *heads: nn.Linear) -> RecurrentPasses:
        """The network as it is now, with these heads, until its parameters change."""
        encoder, layers = self.encoder, self.rest.trunk.linear
        before: Passes | ImagePasses | None = None
        if isinstance(encoder, CNN):
            before = encoder.passes(encoder.head)
        elif encoder is not None:
            before = write_out(encoder.linear, len(encoder.linear) - 1, self._activation, FEW)
        weights = [layer.weight.detach() for layer in (*layers, *heads)]
        biases = [layer.bias.detach() for layer in (*layers, *heads)]
        hidden, curve = len(layers), TORCH_CURVES[self._activation]
        cell, of_rest = self.cell, sum(number.numel() for number in (*weights, *biases))
        return RecurrentPasses(
            encoder=before,
            curve=curve,
            reader=write_out([cell.read], 0, self._activation, FEW),
            cell=CellPasses.write_out(cell),
            rest=Passes(
                [*weights[:hidden], torch.cat(weights[hidden:])],
                [*biases[:hidden], torch.cat(biases[hidden:])],
                curve,
                hidden,
            ),
            heads=[(head.weight.numel(), len(head.bias)) for head in heads],
            place=self._place,
            sizes=[_size(encoder), size(cell.read), cell.recall.weight.numel(), cell.recall.bias.numel(), of_rest],
        )


class WrittenOut(torch.autograd.Function):
    """The outputs (B, P) of an `RNN`, which are `known`, as a step of automatic differentiation by its own parameters.

    A gradient that is to be differentiated, too, comes from a graph of all steps.
    """

    @staticmethod
    def forward(ctx: Any, theta: Tensor, network: RNN, observation: Observations, known: Tensor) -> Tensor:
        ctx.save_for_backward(theta)
        ctx.network, ctx.observation = network, observation
        return known.clone()

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor, None, None, None]:
        (theta,) = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return ctx.network.linearise(ctx.observation).vjp(u), None, None, None
        output = outputs(ctx.network, theta, ctx.observation)
        return torch.autograd.grad(output, theta, u, create_graph=True)[0], None, None, None


def _size(module: nn.Module | None) -> int:
    return 0 if module is None else size(module)
