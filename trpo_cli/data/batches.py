"""What an update reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from trpo_cli.data.observations import Observations, Tensors


@dataclass(frozen=True)
class States(Tensors):
    """M states of one shard, and what the old policy does in them."""

    observation: Observations  # (M, O)
    action: Tensor  # (M, K, A), that were tried
    old_parameters: Tensor  # (M, P), of the old policy's distributions

    def select(self, rows: Tensor | slice) -> States:
        """Return the given states, (N,) int64, in that order, or a slice without copying."""
        return States(**{name: value[rows] for name, value in vars(self).items()})


@dataclass(frozen=True)
class Batch:
    """S states with K actions each: numbers of all shards in their order, and the states of the shards of this process.

    Each shard has equally many states.
    """

    states: Sequence[States]
    advantage: Tensor  # (S, K)
    return_: Tensor  # (S,)
    weight: Tensor  # (S,), of the state, mean one
    old_entropy: Tensor  # (S,), of the old policy, in nats
    old_log_prob: Tensor  # (S, K), log pi_old(a|s)
    log_q: Tensor  # (S, K), log q(a|s) of the proposal that drew the action; along a single path, q = pi_old

    def __len__(self) -> int:
        return len(self.advantage)

    @property
    def rows(self) -> int:
        """M, how many states each shard has."""
        return len(self.states[0].action)

    def select(self, rows: Tensor | slice) -> Batch:
        """Return the same states of each shard: (N,) int64, in that order, or a slice."""
        shards = len(self) // self.rows

        def choose(column: Tensor) -> Tensor:
            return column[rows] if shards == 1 else column.unflatten(0, (shards, -1))[:, rows].flatten(0, 1)

        chosen = {name: choose(value) for name, value in vars(self).items() if name != "states"}
        return Batch([states.select(rows) for states in self.states], **chosen)
