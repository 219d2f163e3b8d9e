"""The global generators of a process. In a worker process, they are part of the state of its only environment."""

from __future__ import annotations

import contextlib
import pickle
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from trpo_cli.envs import generators
from trpo_cli.envs.snapshot_check import mismatch
from trpo_cli.errors import CheckpointError, ConfigError
from trpo_cli.seeding import seed_globals

SHARED: dict[str, Any] = {"random": random._inst, "numpy.random": np.random.mtrand._rand}
TORCH = "torch"
EPISODES = "episodes of a worker process"  # the name of a stream of random numbers

States = dict[str, Any]
"""States as plain data, by the module whose functions draw from the generator."""


def current_states() -> States:
    """The states of all global generators."""
    found = {name: generators.generator_state(generator) for name, generator in SHARED.items()}
    return found | {TORCH: torch.get_rng_state().numpy()}


def changed_states(before: States) -> States:
    """The current states of the generators that have been used since `before`."""
    return {
        name: state for name, state in current_states().items() if pickle.dumps(state) != pickle.dumps(before[name])
    }


@contextlib.contextmanager
def refuse_use(shards: int, env_id: str) -> Iterator[None]:
    """Raise `ConfigError` if environments of one of several shards draw from global generators within this context.

    Each process has its own, so what they draw would depend on which process has the shard.
    """
    before = current_states() if shards > 1 else {}
    yield
    if shards > 1 and (drawn := changed_states(before)):
        raise ConfigError(
            f"shards: got {shards}; {env_id} draws from {' and '.join(drawn)}, whose generator all environments of a "
            "process share; self.np_random is each one's own, and with sampler.vectorization=async so are all others"
        )


class WorkerGenerators:
    """The global generators of a worker process."""

    def __init__(self, seed: int) -> None:
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Seed all global generators."""
        seed_globals(seed, EPISODES)
        self._seed, self._fresh = seed, current_states()

    def save(self) -> dict[str, Any]:
        """The seed, and the states of the generators that have been used since."""
        return {"seed": self._seed, "drawn": changed_states(self._fresh)}

    def load(self, state: dict[str, Any]) -> None:
        """Restore what `save` returned and `check` has accepted."""
        self.reseed(state["seed"])
        for name, one in state["drawn"].items():
            if name == TORCH:
                torch.set_rng_state(torch.from_numpy(one))
            else:
                generators.restore_generator(one, SHARED[name])


def check(state: Any) -> None:
    """Raise `CheckpointError` unless `WorkerGenerators.save` could have returned `state`."""
    if type(state) is not dict or state.keys() != {"seed", "drawn"} or type(state["drawn"]) is not dict:
        raise mismatch("the seed or the states of a worker's global generators are missing")
    if type(state["seed"]) is not int or state["seed"] < 0:
        raise mismatch(f"a worker's seed is {state['seed']!r}")
    for name, one in state["drawn"].items():
        if not (_fits_torch(one) if name == TORCH else _fits(name, one)):
            raise mismatch(f"the state of a worker's generator {name!r}")


def _fits(name: Any, state: Any) -> bool:
    try:
        return name in SHARED and type(generators.restore_generator(state, None)) is type(SHARED[name])
    except CheckpointError:
        return False


def _fits_torch(state: Any) -> bool:
    try:
        torch.Generator().set_state(torch.from_numpy(state))
    except (TypeError, RuntimeError):
        return False
    return True
