"""The work of an iteration in shards: each has its own environments and random numbers, and makes calls of its own.

The configuration says how many shards there are. Results are the same bit for bit on any number of threads and
processes, because shards are always combined in order. Every shard has equally many states.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from trpo_cli.errors import ConfigError
from trpo_cli.shards.ranks import Ranks
from trpo_cli.threads import in_order

R = TypeVar("R")


@dataclass(frozen=True)
class Shards:
    """All shards of a run, of which this process works on its `own`."""

    count: int = 1
    ranks: Ranks = field(default_factory=Ranks)

    def __post_init__(self) -> None:
        """Raise `ConfigError` if there are more processes than shards."""
        if self.ranks.size > self.count:
            size = self.ranks.size
            raise ConfigError(f"shards: got {self.count}, and {size} processes share them; start as many or fewer")

    @cached_property
    def own(self) -> range:
        """The numbers of the shards of this process, which are neighbours."""
        return self._of(self.ranks.rank)

    def _of(self, rank: int) -> range:
        return range(self.count * rank // self.ranks.size, self.count * (rank + 1) // self.ranks.size)

    def places(self, rows: int) -> list[slice]:
        """Return where the shards of this process have their part of so many rows."""
        part = rows // self.count
        return [slice(number * part, (number + 1) * part) for number in self.own]

    def divide(self, number: int, key: str) -> int:
        """Return the part of one shard. Raises `ConfigError` if the `key` has a number that is not a multiple."""
        if number % self.count:
            near = max(1, round(number / self.count)) * self.count
            raise ConfigError(f"{key}: {number} is not a multiple of shards = {self.count}; {near} is")
        return number // self.count

    def each(self, function: Callable[..., R], *columns: Sequence[Any]) -> list[R]:
        """Call the function for each shard of this process, with its entry of every column; threads share the work."""
        if len(columns[0]) == 1:
            return [function(*(column[0] for column in columns))]
        return [*in_order(lambda row: function(*row), zip(*columns, strict=True))]

    def attempt(self, function: Callable[..., R], *columns: Sequence[Any]) -> list[R]:
        """The same, one after the other. If any shard fails on any rank, all ranks raise the error of the first."""
        done, first = [], None
        for row in zip(*columns, strict=True):
            try:
                done.append(function(*row))
            except Exception as error:
                first = first or error
        self.ranks.agree(first)
        return done

    def gather(self, parts: Sequence[R]) -> list[R]:
        """Return the plain data of all shards, given those of this process."""
        return [part for of_rank in self.ranks.gather(list(parts)) for part in of_rank]

    def join(self, parts: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Join columns of rows (M, ...) of one dtype, given those of this process: each becomes (count * M, ...)."""
        if self.count == 1:
            return list(parts[0])
        if self.ranks.size > 1:
            shapes = [tensor.shape for tensor in parts[0]]
            found = self.ranks.gather_tensors(self._pack(parts))
            parts = [_unpack(row, shapes) for row in self._in_order(found)]
        return [torch.cat(column) for column in zip(*parts, strict=True)]

    def split(self, rows: Tensor) -> list[Tensor]:
        """Return the stretches of joined rows that belong to the shards of this process."""
        return [rows[place] for place in self.places(len(rows))]

    def sum(self, parts: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Add tensors of one dtype of all shards in the order of these, given those of this process."""
        if self.ranks.size == 1:
            return [functools.reduce(torch.add, column) for column in zip(*parts, strict=True)]
        sent = self._pack(parts)
        total = self.ranks.combine(sent, lambda found: functools.reduce(torch.add, self._in_order(found)), sent[0])
        return _unpack(total, [tensor.shape for tensor in parts[0]])

    def _pack(self, parts: Sequence[Sequence[Tensor]]) -> Tensor:
        """Make a row of what each own shard has, padded so that each rank has equally many."""
        flat = [torch.cat([tensor.flatten() for tensor in part]) for part in parts]
        most = -(-self.count // self.ranks.size)
        return torch.stack([*flat, *flat[:1] * (most - len(flat))])

    def _in_order(self, found: Sequence[Tensor]) -> list[Tensor]:
        """Return the rows of all shards, given those of each rank."""
        return [row for rank, rows in enumerate(found) for row in rows[: len(self._of(rank))]]


def _unpack(row: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    sizes = [shape.numel() for shape in shapes]
    return [part.view(shape) for part, shape in zip(row.split(sizes), shapes, strict=True)]


ONE = Shards()
