"""Policy iteration on an exactly known finite Markov decision process, with a guarantee that the return never falls.

| improvement    | the new policy                                  | lower bound on its return             |
|----------------|-------------------------------------------------|---------------------------------------|
| `conservative` | the mixture with the greedy policy that         | L - 2 epsilon gamma alpha^2 /         |
|                | maximises its lower bound (Kakade & Langford)   | (1 - gamma)^2, epsilon = max E_pi' A  |
| `monotone`     | the maximum of its lower bound over all         | L - C max KL, C = 4 epsilon gamma /   |
|                | policies (the TRPO paper, Algorithm 1)          | (1 - gamma)^2, epsilon = max abs A    |

Tables are (S, A) float64, the probabilities of actions by state; 0 < gamma < 1. Equation numbers are those of the TRPO
paper.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trpo_cli.algos import Algorithm, Iteration, Outcome
from trpo_cli.exact.finite_mdp import Values
from trpo_cli.exact.kl_ball import kl_divergence, penalised_argmax
from trpo_cli.models.critics import ZeroCritic
from trpo_cli.models.policies.tabular import TabularPolicy
from trpo_cli.ranges import Shrink
from trpo_cli.samplers.exact import Exact


class Improvement(NamedTuple):
    """A new policy, and a bound on what it is worth: its return is at least L - penalty."""

    table: Tensor  # (S, A)
    penalty: float


Improve = Callable[[Values, Tensor, float], Improvement]


def conservative(values: Values, old: Tensor, gamma: float) -> Improvement:
    """(1 - alpha) old + alpha greedy (equation 5), with the alpha in [0, 1] that maximises the bound (equation 6).

    Kakade and Langford (2002, theorem 4.1). The penalty is that of mixtures, 2 epsilon gamma alpha^2 / (1 - gamma)^2,
    where epsilon is the largest advantage that the greedy policy expects in any state.
    """
    advantage, action = values.advantage.max(-1)
    epsilon = advantage.abs().max().item()
    gain = (values.visitation @ advantage).item()  # of L, at alpha = 1
    curvature = 4 * epsilon * gamma / (1 - gamma) ** 2
    alpha = min(max(gain / curvature, 0.0), 1.0) if curvature > 0 else 0.0
    greedy = torch.zeros_like(old).scatter_(-1, action[:, None], 1.0)
    return Improvement(old.lerp(greedy, alpha), curvature * alpha**2 / 2)


def monotone(values: Values, old: Tensor, gamma: float) -> Improvement:
    """The maximum of L(pi) - C max_s KL(old_s || pi_s) over all policies: Algorithm 1 of the TRPO paper.

    The penalty is C max KL (equation 9).
    """
    coefficient = values.penalty_coefficient(gamma)
    if coefficient == 0:  # no action is better than another
        return Improvement(old, 0.0)
    table = penalised_argmax(old, values.advantage, values.visitation, coefficient)
    return Improvement(table, coefficient * kl_divergence(old, table).max().item())


@dataclass(kw_only=True, eq=False)
class PolicyIteration(Algorithm):
    """Evaluate the policy exactly, improve it, and log both sides of the bound."""

    sampler: Exact
    policy: TabularPolicy
    critic: ZeroCritic  # nothing else would be used
    gamma: Shrink
    improvement: Improve

    def iterate(self) -> Iteration:
        start = time.perf_counter()
        (old,) = self.sampler.collect(self.policy)
        evaluated = time.perf_counter()
        improved, penalty = self.improvement(old.values, old.table, self.gamma)
        moved = not torch.equal(improved, old.table)
        if moved:
            self.policy.set_table(improved)
        new = self.policy.table()
        visited = old.values.visitation / old.values.visitation.sum()
        kl = kl_divergence(old.table, new)
        metrics = {
            **old.judge(self.policy),
            "exact/penalty": penalty,  # conservative policy iteration has one of its own
            "exact/lower_bound": old.values.surrogate(new) - penalty,
            "policy/kl": (visited @ kl).item(),
            "policy/max_kl": kl.max().item(),
            "policy/entropy": (visited @ torch.special.entr(old.table).sum(-1)).item(),
            "policy/surrogate_improvement": (visited @ (new * old.values.advantage).sum(-1)).item(),
            **(Outcome.ACCEPTED if moved else Outcome.NO_IMPROVEMENT).metrics(),
        }
        return Iteration(self.sampler.env_steps, evaluated - start, time.perf_counter() - evaluated, metrics)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
