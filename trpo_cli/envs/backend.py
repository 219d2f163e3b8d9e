"""What a way to run environments side by side has to offer: in turn, in worker processes, or as one native batch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from trpo_cli.envs.infos import Numbers
from trpo_cli.errors import NoSnapshot


class Backend(VectorEnv[Any, Any, Any]):
    """A vector environment without autoreset, whose results do not depend on how it runs.

    `reset(seed=..., options={"reset_mask": mask})` resets only the environments in the mask (N,), and returns the
    observations of all. Arrays of observations may be overwritten by the next step. Whatever the environments do wrong
    is raised as a `Failure`.
    """

    lost: NDArray[np.bool_] | None = None
    """Where (N,) the last step lost a life, which ends an episode for the learner only; None without lives."""

    @abstractmethod
    def snapshot_obstacle(self) -> str | None:
        """Return why single environments cannot be saved and restored exactly, or None if they can."""

    @abstractmethod
    def file_obstacle(self) -> str | None:
        """Return why the environments cannot be restored exactly from a file, or None if they can."""

    @abstractmethod
    def state_dict(self) -> Any:
        """Return the whole states of all environments, as plain data for a file."""

    @abstractmethod
    def load_state_dict(self, state: Any) -> None:
        """Restore what `state_dict` returned. Raises `CheckpointError` if it does not fit."""

    @abstractmethod
    def read_numbers(self, rows: NDArray[np.int64], names: Sequence[str]) -> list[Numbers]:
        """Return the numbers called `names` in the infos of the last step of the environments `rows` (K,)."""

    def save(self, rows: NDArray[np.int64]) -> list[Any]:
        """Return the whole states of the environments `rows` (K,). There must be no `snapshot_obstacle`."""
        raise NoSnapshot(self.snapshot_obstacle())

    def restore(self, rows: NDArray[np.int64], snapshots: Sequence[Any]) -> None:
        """Restore `snapshots` (K,) of these or other environments to the environments `rows` (K,)."""
        raise NoSnapshot(self.snapshot_obstacle())

    def reseed(self, rows: NDArray[np.int64], seeds: Sequence[int]) -> None:
        """Seed the generators of the environments `rows` (K,) with `seeds` (K,)."""
        raise NoSnapshot(self.snapshot_obstacle())
