"""Transitions of recorded episodes, in a new order each time all have been seen."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Lt
from numpy.typing import NDArray
from torch import Tensor

from trpo_cli.data import Tensors
from trpo_cli.envs.environments import Environments
from trpo_cli.envs.normalize import ObservationNormalizer
from trpo_cli.envs.recorded import PACKAGES, Episode, RecordError, read_record
from trpo_cli.envs.spaces import find_unreadable
from trpo_cli.errors import CheckpointError, ConfigError, require_packages
from trpo_cli.ranges import Count
from trpo_cli.samplers import Sampler
from trpo_cli.seeding import torch_generator
from trpo_cli.shell import short_path, start_directory

Array = NDArray[Any]


@dataclass(frozen=True)
class Demonstrations(Tensors):
    """What a policy should do in M states."""

    observation: Tensor  # (M, O), as policies see it
    action: Tensor  # (M, A), of the policy's distribution

    def __len__(self) -> int:
        return len(self.action)

    def select(self, rows: slice) -> Demonstrations:
        """Return a slice of the states."""
        return Demonstrations(self.observation[rows], self.action[rows])


class Recorded(Sampler):
    """The transitions of a dataset of Minari. No environment steps are taken: `env_steps` counts transitions."""

    beside = None

    def __init__(
        self,
        environments: Sequence[Environments],
        normalizer: ObservationNormalizer,
        seed: int,
        *,
        path: str,
        transitions_per_iteration: Count,
        held_out: Annotated[float, Ge(0), Lt(1)],
    ) -> None:
        """Raises `ConfigError` unless there is such a record and it fits the environment.

        `held_out` is the share of episodes that are not learnt from, at least one if there are several.
        """
        self.normalizer, self.seed, self.size = normalizer, seed, transitions_per_iteration
        require_packages("sampler.path", "record", *PACKAGES)
        episodes = _read(path, environments[0])
        count = len(episodes)
        order = torch.randperm(count, generator=torch_generator(seed, "held out")).tolist()
        kept_back = min(max(1, round(held_out * count)), count - 1) if held_out else 0
        chosen = [episodes[row] for row in sorted(order[kept_back:])]
        self.observation, self.action = _join(chosen)
        held = [episodes[row] for row in order[:kept_back]]
        self._held = _join(held) if held else None
        self.env_steps, self._epoch, self._order = 0, -1, np.empty(0, dtype=np.int64)
        self.normalizer.update(self.observation)

    def collect(self) -> Demonstrations:
        """Return the next transitions; each occurs once before any occurs again."""
        epochs, places = np.divmod(np.arange(self.env_steps, self.env_steps + self.size), len(self.action))
        rows = np.concatenate([self._shuffled(epoch)[places[epochs == epoch]] for epoch in np.unique(epochs)])
        self.env_steps += self.size
        return self._demonstrations(self.observation[rows], self.action[rows])

    def held_out(self) -> Demonstrations | None:
        """Return transitions of the episodes kept back, always the same, and no more than an iteration has."""
        if self._held is None:
            return None
        observation, action = self._held
        rows = np.linspace(0, len(action) - 1, min(len(action), self.size)).astype(np.int64)
        return self._demonstrations(observation[rows], action[rows])

    def _demonstrations(self, observation: Array, action: Array) -> Demonstrations:
        return Demonstrations(torch.from_numpy(self.normalizer(observation)), torch.from_numpy(action))

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        if epoch != self._epoch:
            generator = torch_generator(self.seed, f"transitions of epoch {epoch}")
            self._epoch, self._order = epoch, torch.randperm(len(self.action), generator=generator).numpy()
        return self._order

    def metrics(self) -> dict[str, float | None]:
        """Return none, since no episode is played."""
        return {}

    @property
    def epochs(self) -> float:
        """How often all transitions have been seen."""
        return self.env_steps / len(self.action)

    def state_dict(self) -> dict[str, Any]:
        return {"env_steps": self.env_steps, "record": self._digest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises `CheckpointError` if the record is not the one that was learnt from before."""
        if state["record"] != self._digest:
            raise CheckpointError("sampler.path: the record has changed since the checkpoint")
        self.env_steps = state["env_steps"]

    @functools.cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256(self.observation.tobytes())
        digest.update(self.action.tobytes())
        return digest.hexdigest()


def _read(path: str, environments: Environments) -> list[tuple[Array, Array]]:
    """Read the record at `path`: all observations (T, O) but the last, and actions (T, A), of each episode.

    Raises `ConfigError` if there is none, it is damaged, or it does not fit the environments.
    """
    try:
        record = read_record(start_directory() / path)
        recorded = record.observation_space, record.action_space
        for what, theirs, ours in zip(("observations", "actions"), recorded, environments.raw_spaces, strict=True):
            if theirs != ours:
                raise RecordError(f"the {what} in {path} are {theirs}, and those of {environments.task.id} are {ours}")
        if not record.count:
            raise RecordError(f"{path} holds no episodes")
        named = {f"{short_path(record.file)}: episode_{n}": one for n, one in enumerate(record.read_episodes())}
        return [_encode(name, episode, environments) for name, episode in named.items()]
    except RecordError as error:
        raise ConfigError(f"sampler.path: {error}") from error


def _encode(name: str, episode: Episode, environments: Environments) -> tuple[Array, Array]:
    """Return what a policy sees and does in an episode. Raises `RecordError` for what no policy can see or do."""
    observation, action = environments.encode(episode.observations, episode.actions)
    for what, batch in (("observations", observation[:-1]), ("actions", action)):
        if find_unreadable(batch) is not None:
            raise RecordError(f"{name}/{what}: it holds numbers that are not finite")
    return observation[:-1], action


def _join(episodes: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Return observations (M, O) and actions (M, A) of episodes, one after another."""
    observations, actions = zip(*episodes, strict=True)
    return np.concatenate(observations), np.concatenate(actions)
