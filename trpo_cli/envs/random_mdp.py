"""Random finite Markov decision processes of the Garnet type (Archibald, McKinnon and Thomas 1995).

Importing this module registers `RandomMDP-v0`.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.toy_text.utils import categorical_sample


class RandomMDP(gymnasium.Env[Any, Any]):
    """Every action in every state leads to one of `branching` random states and pays a fixed reward.

    The probabilities are the gaps between uniform cuts of [0, 1], and the rewards are standard normal. Episodes start
    in a uniformly random state; each step ends the episode with probability `termination`.
    """

    def __init__(
        self,
        *,
        num_states: int = 20,
        num_actions: int = 4,
        branching: int = 3,
        termination: float = 0.02,
        mdp_seed: int = 0,
    ) -> None:
        """`mdp_seed` determines the process, `reset(seed=...)` its episodes. Raises `ValueError` for bad arguments."""
        if not 1 <= branching <= num_states:
            raise ValueError(f"branching: got {branching}; it must be from 1 to num_states = {num_states}")
        if num_actions < 1:
            raise ValueError(f"num_actions: got {num_actions}; it must be at least 1")
        if not 0 <= termination <= 1:
            raise ValueError(f"termination: got {termination}; it must be a probability, from 0 to 1")
        self.observation_space, self.action_space = spaces.Discrete(num_states), spaces.Discrete(num_actions)
        self.initial_state_distrib = np.full(num_states, 1 / num_states)
        rng = np.random.default_rng(mdp_seed)
        self.P: dict[int, dict[int, list[tuple[float, int, float, bool]]]] = {
            state: {action: _transitions(rng, num_states, branching, termination) for action in range(num_actions)}
            for state in range(num_states)
        }
        self.state = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = int(categorical_sample(self.initial_state_distrib, self.np_random))
        return self.state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        transitions = self.P[self.state][int(action)]
        drawn = categorical_sample([probability for probability, *_ in transitions], self.np_random)
        _, self.state, reward, done = transitions[drawn]
        return self.state, reward, done, False, {}


def _transitions(
    rng: np.random.Generator, num_states: int, branching: int, termination: float
) -> list[tuple[float, int, float, bool]]:
    """The transitions of one state and action: (probability, successor, reward, done)."""
    successors = rng.choice(num_states, size=branching, replace=False)
    cuts = np.sort(rng.random(branching - 1))
    probabilities = np.diff(cuts, prepend=0.0, append=1.0)
    reward = float(rng.standard_normal())
    return [
        (float(probability * share), int(successor), reward, done)
        for probability, successor in zip(probabilities, successors, strict=True)
        for share, done in ((1 - termination, False), (termination, True))
        if share > 0
    ]


gymnasium.register("RandomMDP-v0", entry_point=f"{__name__}:RandomMDP", max_episode_steps=1000)
