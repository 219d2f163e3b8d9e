"""Memory cells: how what a network remembers moves from one step to the next, with the passes through time written out.

A cell adds what it reads, R x + b, to what it recalls, U h + c, and gates decide how much of that it keeps; h is what
it shows to the rest of the network. Its memory m is h alone (GRU), or h and behind it the state of the cell (LSTM).
Around the weights as they are, the memory moves by a linear recurrence, whose coefficients are found for all steps
at once; only a product with U is left for each step.

Sizes: L steps, G sequences side by side, H units, g gates. Arrays through time begin with the step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trpo_cli.models.passes import sigmoid

Memory = Literal["gru", "lstm"]
Array = NDArray[Any]
Curve = Callable[[Any], Any]


class Taken(NamedTuple):
    """What a cell did in a step, or in all of them: (G, ...) or (L, G, ...)."""

    before: Any  # (M,), the memory
    recalled: Any  # (g, H)
    gates: Any  # (g, H)


class Slopes(NamedTuple):
    """Derivatives of what a cell did in L steps: how the memory after each moves."""

    read: Array  # (L, G, g, H), with what is read
    recalled: Array  # (L, G, g, H), with what is recalled
    kept: Array  # (L, G, H), with the part of the memory that the cell itself keeps
    shown: Array | None = None  # (L, G, H): h moves with the state of the cell, if the two differ


class Cell(nn.Module, ABC):
    """A cell that reads features (B, in) and shows H numbers (B, H)."""

    gates: ClassVar[int]
    parts: ClassVar[int]  # of the memory, H numbers each

    def __init__(self, inputs: int, size: int, span: int | None = None) -> None:
        """With a `span`, each unit at first keeps what it took in for another time, up to so many steps.

        This is the chrono initialisation of Tallec and Ollivier 2018, section 2.
        """
        super().__init__()
        self.size, self.memory_size, self.shape = size, self.parts * size, (self.gates, size)
        self.read, self.recall = nn.Linear(inputs, self.gates * size), nn.Linear(size, self.gates * size)
        for layer in (self.read, self.recall):
            nn.init.zeros_(layer.bias)
            for weight in layer.weight.detach().chunk(self.gates):
                nn.init.orthogonal_(weight)
        if span is not None:
            self.keep_for(torch.empty(size).uniform_(1, span - 1))

    @abstractmethod
    def keep_for(self, steps: Tensor) -> None:
        """Set biases so that, with inputs of zero, unit i forgets a part of 1 / (1 + `steps`[i]) in each step."""

    def forward(self, features: Tensor, memory: Tensor) -> Tensor:
        """The memory (B, M) after a step, differentiable."""
        shape = (len(memory), *self.shape)
        recalled = self.recall(memory[:, : self.size]).view(shape)
        return self.step(self.read(features).view(shape), recalled, memory, torch.sigmoid, torch.tanh)[0]  # type: ignore[no-any-return]

    @staticmethod
    @abstractmethod
    def step(read: Any, recalled: Any, memory: Any, sigmoid: Curve, tanh: Curve) -> tuple[Any, Any]:
        """The memory (B, M) after a step, and the gates (B, g, H) as they were: tensors or arrays."""

    @staticmethod
    @abstractmethod
    def slopes(taken: Taken, after: Array) -> Slopes:
        """How the memory `after` (L, G, M) moves with what is read and recalled, and with the memory before."""


class GRU(Cell):
    """Gated recurrent unit (Cho et al. 2014), with the reset gate behind the product as in cuDNN.

    Gates: reset r, update z, candidate n. h' = (1 - z) n + z h.
    """

    gates, parts = 3, 1

    def keep_for(self, steps: Tensor) -> None:
        self.read.bias.detach()[self.size : 2 * self.size] = steps.log()

    @staticmethod
    def step(read: Any, recalled: Any, memory: Any, sigmoid: Curve, tanh: Curve) -> tuple[Any, Any]:
        reset, update = sigmoid(read[:, :2] + recalled[:, :2]).swapaxes(0, 1)
        candidate = tanh(read[:, 2] + reset * recalled[:, 2])
        return candidate + update * (memory - candidate), (reset, update, candidate)

    @staticmethod
    def slopes(taken: Taken, after: Array) -> Slopes:
        r, z, n = (taken.gates[:, :, gate] for gate in range(3))
        read, recalled = np.empty_like(taken.gates), np.empty_like(taken.gates)
        read[:, :, 2] = (1 - z) * (1 - n * n)
        read[:, :, 0] = read[:, :, 2] * taken.recalled[:, :, 2] * r * (1 - r)
        read[:, :, 1] = (taken.before - n) * z * (1 - z)
        recalled[:, :, :2] = read[:, :, :2]
        recalled[:, :, 2] = read[:, :, 2] * r
        return Slopes(read, recalled, kept=z)


class LSTM(Cell):
    """Long short-term memory (Hochreiter and Schmidhuber 1997) with a forget gate (Gers et al. 2000).

    Gates: input i, forget f, candidate n, output o. c' = f c + i n and h' = o tanh(c'). Without a span, the forget gate
    begins open, with a bias of 1 (Jozefowicz et al. 2015).
    """

    gates, parts = 4, 2

    def __init__(self, inputs: int, size: int, span: int | None = None) -> None:
        super().__init__(inputs, size, span)
        if span is None:
            nn.init.ones_(self.read.bias.detach()[size : 2 * size])

    def keep_for(self, steps: Tensor) -> None:
        enter, forget, *_ = self.read.bias.detach().chunk(self.gates)
        forget.copy_(steps.log())
        enter.copy_(-steps.log())

    @staticmethod
    def step(read: Any, recalled: Any, memory: Any, sigmoid: Curve, tanh: Curve) -> tuple[Any, Any]:
        total, size = read + recalled, memory.shape[1] // 2
        enter, forget = sigmoid(total[:, :2]).swapaxes(0, 1)
        candidate, show = tanh(total[:, 2]), sigmoid(total[:, 3])
        cell = forget * memory[:, size:] + enter * candidate
        join = torch.cat if isinstance(cell, Tensor) else np.concatenate
        return join((show * tanh(cell), cell), 1), (enter, forget, candidate, show)

    @staticmethod
    def slopes(taken: Taken, after: Array) -> Slopes:
        i, f, n, o = (taken.gates[:, :, gate] for gate in range(4))
        size = i.shape[-1]
        curved, slope = np.tanh(after[..., size:]), np.empty_like(taken.gates)
        slope[:, :, 0] = n * i * (1 - i)
        slope[:, :, 1] = taken.before[..., size:] * f * (1 - f)
        slope[:, :, 2] = i * (1 - n * n)
        slope[:, :, 3] = curved * o * (1 - o)
        return Slopes(slope, slope, kept=f, shown=o * (1 - curved * curved))


CELLS: dict[Memory, type[Cell]] = {"gru": GRU, "lstm": LSTM}


@dataclass(frozen=True)
class Beginnings:
    """Where sequences begin, and what is remembered there."""

    memory: Array  # (G, M)
    first: Array  # (G,), the step that begins with it
    emptied: Array  # (L, G) bool, where the memory is emptied before a step

    def before(self, t: int, memory: Array) -> Array:
        """The memory (G, M) with which step t begins, given the one after the step before."""
        if self.emptied[t].any():
            memory = np.where(self.emptied[t][:, None], 0, memory)
        starting = self.first == t
        return np.where(starting[:, None], self.memory, memory) if starting.any() else memory

    def severed(self, t: int) -> Array | None:
        """In which sequences (G,) step t does not go on from the step before; None if in none."""
        cut = self.emptied[t] | (self.first == t)
        return cut[:, None] if cut.any() else None


@dataclass(frozen=True)
class CellPasses:
    """A cell as it is, on a CPU. Products are torch's, of which each row has the same bits from four rows on."""

    cell: Cell
    recall_weight: Tensor  # (g H, H)
    recall_bias: Tensor  # (g H,)

    @classmethod
    def write_out(cls, cell: Cell) -> CellPasses:
        return cls(cell, cell.recall.weight.detach(), cell.recall.bias.detach())

    def step(self, read: Array, memory: Array) -> tuple[Array, Taken]:
        """The memory (G, M) after a step, given what is read (G, g, H)."""
        h = torch.from_numpy(np.ascontiguousarray(memory[:, : self.cell.size]))
        recalled = torch.addmm(self.recall_bias, h, self.recall_weight.T).numpy().reshape(read.shape)
        after, gates = self.cell.step(read, recalled, memory, sigmoid, np.tanh)
        return after, Taken(memory, recalled, gates)

    def follow(self, read: Array, beginnings: Beginnings) -> Array:
        """What the cell shows (L, G, H), given what it reads (L, G, g, H)."""
        shown, memory = np.empty((*read.shape[:2], self.cell.size), read.dtype), beginnings.memory
        for t, now in enumerate(read):
            memory, _ = self.step(now, beginnings.before(t, memory))
            shown[t] = memory[:, : self.cell.size]
        return shown

    def trace(self, read: Array, beginnings: Beginnings) -> CellTrace:
        """Go forward, and keep what the products need."""
        memory, shape = beginnings.memory, (*read.shape[:2], self.cell.memory_size)
        kept = Taken(np.empty(shape, read.dtype), np.empty_like(read), np.empty_like(read))
        after = np.empty(shape, read.dtype)
        for t, now in enumerate(read):
            memory, taken = self.step(now, beginnings.before(t, memory))
            kept.before[t], kept.recalled[t], after[t] = taken.before, taken.recalled, memory
            for gate, values in enumerate(taken.gates):
                kept.gates[t, :, gate] = values
        shown, before = after[..., : self.cell.size], np.ascontiguousarray(kept.before[..., : self.cell.size])
        return CellTrace(self.recall_weight, self.cell.slopes(kept, after), beginnings, shown, before)


@dataclass(frozen=True)
class CellTrace:
    """A pass of a cell through time, and how what it shows moves."""

    weight: Tensor  # (g H, H), by which it recalls
    slopes: Slopes
    beginnings: Beginnings
    shown: Array  # (L, G, H)
    before: Array  # (L, G, H), what it had shown before each step

    def jvp(self, read: Array, weight: Tensor, bias: Tensor) -> Array:
        """How what is shown (L, G, H) moves if what is read does (L, G, g, H), and weight and bias of U do."""
        slopes, (steps, count, gates, size) = self.slopes, read.shape
        direct = torch.addmm(bias, torch.from_numpy(self.before).flatten(0, 1), weight.T).numpy().reshape(read.shape)
        drive = slopes.read * read + slopes.recalled * direct
        moved = np.empty((steps, count, size), read.dtype)
        h, cell = np.zeros((2, count, size), read.dtype)
        for t in range(steps):
            if (cut := self.beginnings.severed(t)) is not None:
                h, cell = np.where(cut, 0, h), np.where(cut, 0, cell)
            back = torch.mm(torch.from_numpy(h), self.weight.T).numpy().reshape(count, gates, size)
            back *= slopes.recalled[t]
            back += drive[t]
            if slopes.shown is None:
                cell = h = slopes.kept[t] * h + back.sum(1)
            else:
                cell = slopes.kept[t] * cell + back[:, :-1].sum(1)
                h = back[:, -1] + slopes.shown[t] * cell
            moved[t] = h
        return moved

    def vjp(self, u: Array) -> tuple[Array, Tensor, Tensor]:
        """The gradient of u . shown, with u (L, G, H): by what is read (L, G, g, H), and by weight and bias of U."""
        slopes, (steps, count, size) = self.slopes, u.shape
        total = np.empty((steps, count, slopes.read.shape[2], size), u.dtype)  # by gates times their slopes
        by_h, by_cell = np.zeros((2, count, size), u.dtype)
        for t in reversed(range(steps)):
            by_h = by_h + u[t]
            if slopes.shown is None:
                total[t] = by_h[:, None]
                by_cell = slopes.kept[t] * by_h
            else:
                by_cell = by_cell + slopes.shown[t] * by_h
                total[t, :, :-1], total[t, :, -1] = by_cell[:, None], by_h
                by_cell = slopes.kept[t] * by_cell
            pulled = torch.from_numpy(slopes.recalled[t] * total[t]).flatten(1)
            by_h = torch.mm(pulled, self.weight).numpy()
            if slopes.shown is None:
                by_h += by_cell
            if (cut := self.beginnings.severed(t)) is not None:
                by_h, by_cell = np.where(cut, 0, by_h), np.where(cut, 0, by_cell)
        by_recalled = torch.from_numpy(total * slopes.recalled).flatten(0, 1).flatten(1)
        total *= slopes.read
        return total, by_recalled.T @ torch.from_numpy(self.before).flatten(0, 1), by_recalled.sum(0)
