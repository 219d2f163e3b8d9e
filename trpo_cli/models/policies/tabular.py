"""A row of logits for each state, so that the theory of finite Markov decision processes holds exactly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trpo_cli.data import Observations, ObservationSpec, read
from trpo_cli.errors import ConfigError
from trpo_cli.models.distributions import Categorical, Distribution
from trpo_cli.models.linearisation import Linearisation
from trpo_cli.models.policies import Policy

SMALLEST = torch.finfo(torch.float64).tiny  # stands for a probability of zero


class TabularPolicy(Policy):
    """One-hot observation (B, S) -> logits (B, A) in float64: the row of the state. Uniform at first."""

    def __init__(self, observation: ObservationSpec, distribution: Distribution) -> None:
        """Raises `ConfigError` unless there is a finite number of states and the actions are one choice among a few."""
        super().__init__()
        if observation.num_states is None:
            raise ConfigError(
                "policy: tabular has a row for each state: it needs a Discrete observation space, and env.stack=1"
            )
        if not (isinstance(distribution, Categorical) and len(distribution.sizes) == 1):
            raise ConfigError("policy: tabular has a column for each action: it needs a Discrete action space")
        self.distribution = distribution
        self.logits = nn.Parameter(torch.zeros(observation.num_states, distribution.network_size, dtype=torch.float64))

    def forward(self, observation: Tensor) -> Tensor:
        return self.logits.index_select(0, observation.argmax(-1))

    @torch.no_grad()
    def linearise(self, observation: Observations) -> Linearisation:
        state = read(observation).argmax(-1)

        def jvp(v: Tensor) -> Tensor:
            return v.view_as(self.logits).index_select(0, state)

        def vjp(u: Tensor) -> Tensor:
            return torch.zeros_like(self.logits).index_add_(0, state, u).flatten()

        return Linearisation(self.logits.index_select(0, state), jvp, vjp)

    @torch.no_grad()
    def table(self) -> Tensor:
        """pi(a|s), (S, A), on the CPU."""
        return self.logits.cpu().softmax(-1)

    @torch.no_grad()
    def set_table(self, table: Tensor) -> None:
        """Make pi(a|s) = `table` (S, A), up to rounding; a probability of zero becomes the smallest normal number.

        Raises `ValueError` if a row is no distribution.
        """
        if not (table >= 0).all() or not torch.isclose(table.sum(-1), table.new_ones(())).all():
            raise ValueError("a row of the table is no distribution")
        self.logits.copy_(table.clamp(min=SMALLEST).log())
