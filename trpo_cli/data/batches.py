"""What an update reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from trpo_cli.data.observations import Observations, Tensors, length_of


@dataclass(frozen=True)
class States(Tensors):
    """M states of one shard, and what the old policy does in them."""

    observation: Observations  # (M, O)
    action: Tensor  # (M, K, A), that were tried
    old_parameters: Tensor  # (M, P), of the old policy's distributions

    @property
    def length(self) -> int:
        """How many neighbouring states are selected together: those of a sequence, if policy or critic remember."""
        return length_of(self.observation)

    def select(self, chosen: Tensor | slice) -> States:
        """Return the given states or sequences, (N,) int64, in that order, or a slice without copying."""
        action, parameters = (_choose(value, 1, self.length, chosen) for value in (self.action, self.old_parameters))
        return States(self.observation[chosen], action, parameters)


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
    def length(self) -> int:
        """How many neighbouring states are selected together."""
        return self.states[0].length

    @property
    def units(self) -> int:
        """How many states, or sequences of them, each shard has to select from."""
        return len(self.states[0].action) // self.length

    def select(self, chosen: Tensor | slice) -> Batch:
        """Return the same states or sequences of each shard: (N,) int64, in that order, or a slice."""
        shards = len(self) // (self.units * self.length)
        columns = {name: value for name, value in vars(self).items() if name != "states"}
        selected = {name: _choose(value, shards, self.length, chosen) for name, value in columns.items()}
        return Batch([states.select(chosen) for states in self.states], **selected)


def _choose(column: Tensor, shards: int, length: int, chosen: Tensor | slice) -> Tensor:
    """Return the chosen stretches of `length` rows (shards * units * length, ...) of each shard."""
    if shards == 1 and length == 1:
        return column[chosen]
    units: Tensor = column.unflatten(0, (shards, -1, length))
    return units[:, chosen].flatten(0, 2)
