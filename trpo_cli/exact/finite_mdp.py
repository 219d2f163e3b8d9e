"""Finite Markov decision processes, evaluated exactly: values and visitation by linear algebra, without sampling.

Sizes are S states, A actions and K transitions; all numbers are float64. One dense factorisation solves the linear
systems for both values and visitation. Equations are those of the TRPO paper (Schulman et al. 2015).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import torch
from torch import Tensor

from trpo_cli.columns import EXACT_RETURN
from trpo_cli.data import Tensors
from trpo_cli.errors import ConfigError
from trpo_cli.exact.kl_ball import kl_divergence

MAX_EXPECTED_STEPS = 1e8
"""The largest norm of the inverse, and so the largest growth of rounding errors: expected steps to the end."""


@dataclass(frozen=True, eq=False)
class Values(Tensors):
    """The exact values of a policy, in the notation of the TRPO paper, section 2."""

    value: Tensor  # V (S,)
    action_value: Tensor  # Q (S, A)
    advantage: Tensor  # A = Q - V (S, A)
    visitation: Tensor  # rho(s) = sum_t gamma^t P(s_t = s) (S,): discounted, not normalised
    eta: float  # the expected discounted return of an episode

    def surrogate(self, table: Tensor) -> float:
        """L(pi) = eta + sum_s rho(s) sum_a pi(a|s) A(s, a) for pi = `table` (S, A), equation 3."""
        return self.eta + (self.visitation @ (table * self.advantage).sum(-1)).item()

    def penalty_coefficient(self, gamma: float) -> float:
        """C = 4 epsilon gamma / (1 - gamma)^2 with epsilon = max |A|: eta(pi) >= L(pi) - C max KL, equation 9."""
        return 4 * self.advantage.abs().max().item() * gamma / (1 - gamma) ** 2


@dataclass(frozen=True)
class Guarantee:
    """The guaranteed and the true improvement of a step from one policy to the next (theorem 1, equation 10)."""

    eta: float  # of the new policy
    surrogate: float  # L(new)
    penalty: float  # surrogate - penalty is the lower bound on eta
    true_change: float  # eta(new) - eta(old)

    @classmethod
    def between(cls, old: Values, old_table: Tensor, new: Values, new_table: Tensor, gamma: float) -> Guarantee:
        """The guarantee with the penalty C max KL(old || new), which holds for every step (equation 9)."""
        penalty = old.penalty_coefficient(gamma) * kl_divergence(old_table, new_table).max().item()
        return cls(new.eta, old.surrogate(new_table), penalty, new.eta - old.eta)

    def metrics(self) -> dict[str, float | None]:
        """The columns of `metrics.csv`."""
        return {
            EXACT_RETURN: self.eta,
            "exact/surrogate": self.surrogate,
            "exact/penalty": self.penalty,
            "exact/lower_bound": self.surrogate - self.penalty,
            "exact/true_change": self.true_change,
        }


@dataclass(frozen=True, eq=False)
class FiniteMDP:
    """The rewards, the initial distribution, and the transitions after which an episode continues.

    A transition that ends the episode pays its reward and has no successor: there is no absorbing state, and the
    probabilities of a pair may sum to less than one. Time limits are not part of it, since no state has a clock.
    """

    pair: Tensor  # (K,) int64, s * A + a of each transition
    successor: Tensor  # (K,) int64
    probability: Tensor  # (K,), P(successor, episode continues | s, a); entries with equal pair and successor add up
    reward: Tensor  # (S, A), expectation over successors
    start: Tensor  # rho_0 (S,)

    @classmethod
    def from_env(cls, env: gymnasium.Env[Any, Any]) -> FiniteMDP:
        """The model that a toy-text environment exposes, regardless of its wrappers.

        It is read from `P`, {s: {a: [(probability, successor, reward, done), ...]}}, and `initial_state_distrib`.
        Raises `ConfigError` if either is missing or is not a distribution, or if they do not describe the environment.
        """
        inner = env.unwrapped
        name = f"env.id: {inner.spec.id if inner.spec else type(inner).__name__}"
        for attribute in ("P", "initial_state_distrib"):
            if not hasattr(inner, attribute):
                raise ConfigError(
                    f"{name} exposes no finite model, since it has no `{attribute}`.\n"
                    "FrozenLake-v1, CliffWalking-v1, Taxi-v4 and RandomMDP-v0 expose one."
                )
        if getattr(inner, "fickle_passenger", False):
            raise ConfigError(f"{name}: `P` does not describe fickle_passenger=True; set it to False")
        start = torch.as_tensor(inner.initial_state_distrib, dtype=torch.float64)  # type: ignore[attr-defined]
        model = cls._read(inner.P, start, name)  # type: ignore[attr-defined]
        if not (start >= 0).all() or not torch.isclose(start.sum(), start.new_ones(())):
            raise ConfigError(f"{name}: `initial_state_distrib` is not a probability distribution")
        return model

    @classmethod
    def _read(cls, table: Mapping[int, Mapping[int, list[Any]]], start: Tensor, name: str) -> FiniteMDP:
        num_states, num_actions = len(table), len(table[0])
        rows = [
            (state * num_actions + action, successor, probability, reward, bool(done))
            for state in range(num_states)
            for action in range(num_actions)
            for probability, successor, reward, done in table[state][action]
        ]
        kinds = (torch.int64, torch.int64, torch.float64, torch.float64, torch.bool)
        columns = zip(zip(*rows, strict=True), kinds, strict=True)
        pair, successor, probability, reward, done = (torch.tensor(column, dtype=kind) for column, kind in columns)
        pairs = torch.zeros(num_states * num_actions, dtype=torch.float64)
        total = pairs.index_add(0, pair, probability)
        if not (probability >= 0).all() or not torch.isclose(total, torch.ones_like(total)).all():
            raise ConfigError(f"{name}: the probabilities of a state and an action in `P` do not sum to one")
        if len(start) != num_states or not ((successor >= 0) & (successor < num_states)).all():
            raise ConfigError(
                f"{name}: `P` has {num_states} states, but its successors or `initial_state_distrib` have others"
            )
        expected = pairs.index_add(0, pair, probability * reward).view(num_states, num_actions)
        if not expected.isfinite().all():
            raise ConfigError(f"{name}: a reward in `P` is not finite")
        continues = ~done
        return cls(pair[continues], successor[continues], probability[continues], expected, start)

    def evaluate(self, table: Tensor, gamma: float) -> Values:
        """The values of the policy pi(a|s) = `table` (S, A), differentiable with respect to `table`.

        V = (I - gamma P_pi)^-1 r_pi and rho = (I - gamma P_pi^T)^-1 rho_0. Raises `ConfigError` if there is no inverse,
        which happens for gamma = 1 if episodes from some state never end under this policy.
        """
        num_states, num_actions = self.reward.shape
        weight = table.flatten()[self.pair] * self.probability
        place = self.pair.div(num_actions, rounding_mode="floor") * num_states + self.successor
        identity = torch.eye(num_states, dtype=torch.float64)
        matrix = identity.flatten().index_add(0, place, -gamma * weight).view_as(identity)
        lu, pivots, _ = torch.linalg.lu_factor_ex(matrix)
        expected_reward = (table * self.reward).sum(-1)
        solved = torch.linalg.lu_solve(lu, pivots, torch.stack([expected_reward, torch.ones_like(expected_reward)], 1))
        value, length = solved.unbind(1)
        self._check_length(length, gamma)
        visitation = torch.linalg.lu_solve(lu, pivots, self.start[:, None], adjoint=True)[:, 0]
        later = torch.zeros(num_states * num_actions, dtype=torch.float64).index_add(
            0, self.pair, self.probability * value[self.successor]
        )
        action_value = self.reward + gamma * later.view_as(self.reward)
        return Values(
            value=value,
            action_value=action_value,
            advantage=action_value - value[:, None],
            visitation=visitation.clamp(min=0),  # removes rounding errors around zero
            eta=(self.start * value).sum().item(),
        )

    @staticmethod
    def _check_length(length: Tensor, gamma: float) -> None:
        """Check `length` (S,), the inverse times ones: the expected discounted steps to the end, at least 1."""
        endless = ~((length > 0.5) & (length < MAX_EXPECTED_STEPS))
        if endless.any():
            raise ConfigError(
                f"algo.gamma: got {gamma}, for which the return from state {int(endless.nonzero()[0])} does not "
                "converge: episodes from there do not end under this policy. Choose a smaller gamma."
            )
