"""How what a policy sees is stored while it follows a path."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from trpo_cli.data import Frames, ObservationSpec, Steps
from trpo_cli.envs.environments import Environments
from trpo_cli.envs.normalize import ObservationNormalizer


class Seen:
    """What a policy sees in T steps of N environments: in stacks of images, each frame is kept once."""

    def __init__(self, horizon: int, environments: Environments, normalizer: ObservationNormalizer) -> None:
        spec, self._environments = environments.spec, environments
        self._older = spec.stack - 1 if shares_frames(spec, normalizer) else 0  # frames from before the first step
        shape = spec.newest if self._older else spec.shape
        self._kept: np.ndarray = np.empty(
            (self._older + horizon, environments.num_envs, *shape), dtype=normalizer.dtype
        )
        if self._older:
            self._kept[: self._older] = environments.observation[:, :-1].swapaxes(0, 1)

    def place(self, t: int) -> np.ndarray | None:
        """Return where to write what is seen at time t (N, O); None if the newest frames are all that is new of it."""
        if not self._older:
            return self._kept[t]  # type: ignore[no-any-return]
        self._kept[self._older + t] = self._environments.observation[:, -1]
        return None

    def observations(self, age: NDArray[np.int64]) -> Steps:
        """All of it (T, N, O), given how many steps each episode had behind it (T, N)."""
        kept = torch.from_numpy(self._kept)
        if not self._older:
            return kept
        horizon, num_envs = age.shape
        now = self._older + torch.arange(horizon)[:, None, None]
        first = now - torch.from_numpy(age)[..., None]  # no stack reaches beyond it
        times = torch.maximum(now + torch.arange(-self._older, 1), first)
        return Frames(kept.flatten(0, 1), times * num_envs + torch.arange(num_envs)[:, None])


def shares_frames(spec: ObservationSpec, normalizer: ObservationNormalizer) -> bool:
    """Whether stacks share their frames; a normaliser has a scale of its own for each place in a stack."""
    return spec.stack > 1 and spec.is_image and not normalizer.enabled
