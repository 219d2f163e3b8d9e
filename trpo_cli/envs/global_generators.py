"""The generators that all code of a process shares: in a worker process, they belong to its one environment's state."""

from __future__ import annotations

import pickle
import random
from typing import Any

import numpy as np
import torch

from trpo_cli.envs import generators
from trpo_cli.envs.fitting import misfit
from trpo_cli.errors import CheckpointError
from trpo_cli.seeding import seed_globals

SHARED: dict[str, Any] = {"random": random._inst, "numpy.random": np.random.mtrand._rand}
TORCH = "torch"
EPISODES = "episodes of a worker process"  # a stream of random numbers

States = dict[str, Any]
"""Plain data, by the module whose functions draw from the generator."""


def states() -> States:
    """Of all of them."""
    found = {name: generators.state_of(generator) for name, generator in SHARED.items()}
    return found | {TORCH: torch.get_rng_state().numpy()}


def drawn(before: States) -> States:
    """The states, as they are now, of those that gave numbers since `before`."""
    return {name: state for name, state in states().items() if pickle.dumps(state) != pickle.dumps(before[name])}


class Globals:
    """Those of a worker process."""

    def __init__(self, seed: int) -> None:
        self.start_anew(seed)

    def start_anew(self, seed: int) -> None:
        """All that is drawn from now on follows from the seed."""
        seed_globals(seed, EPISODES)
        self._seed, self._fresh = seed, states()

    def save(self) -> dict[str, Any]:
        """Their seed, and where those are that were drawn from."""
        return {"seed": self._seed, "drawn": drawn(self._fresh)}

    def load(self, state: dict[str, Any]) -> None:
        """Restore what `save` gave, which `check` has accepted."""
        self.start_anew(state["seed"])
        for name, one in state["drawn"].items():
            if name == TORCH:
                torch.set_rng_state(torch.from_numpy(one))
            else:
                generators.restored(one, SHARED[name])


def check(state: Any) -> None:
    """Raises `CheckpointError` unless `state` is of the kind that `Globals.save` gives."""
    if type(state) is not dict or state.keys() != {"seed", "drawn"} or type(state["drawn"]) is not dict:
        raise misfit("a worker's global generators lack their seed or their states")
    if type(state["seed"]) is not int or state["seed"] < 0:
        raise misfit(f"a worker's seed is {state['seed']!r}")
    for name, one in state["drawn"].items():
        if not (_fits_torch(one) if name == TORCH else _fits(name, one)):
            raise misfit(f"the state of a worker's generator {name!r}")


def _fits(name: Any, state: Any) -> bool:
    try:
        return name in SHARED and type(generators.restored(state, None)) is type(SHARED[name])
    except CheckpointError:
        return False


def _fits_torch(state: Any) -> bool:
    try:
        torch.Generator().set_state(torch.from_numpy(state))
    except (TypeError, RuntimeError):
        return False
    return True
