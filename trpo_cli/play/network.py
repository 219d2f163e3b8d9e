"""A trained policy as one network, from raw observations to actions of the environment."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from trpo_cli.envs.joining import iterate_leaves, join, own_space
from trpo_cli.envs.normalize import EPSILON
from trpo_cli.envs.spaces import find_scale, observation_encoder
from trpo_cli.envs.view import find_shown
from trpo_cli.play.trained import Trained

INPUT = "observation"
Inputs = Tensor | dict[str, Tensor]
"""What a network reads: a batch of observations, or of each of their entries, by name."""


def named_entries(space: spaces.Space[Any]) -> list[tuple[str, spaces.Space[Any]]]:
    """Return the entries of the environment's own observations; one that is not composite has the name of the input."""
    return [(name or INPUT, leaf) for name, leaf in iterate_leaves(own_space(space))]


def is_composite(space: spaces.Space[Any]) -> bool:
    """Whether a network reads observations of the space entry by entry."""
    return isinstance(own_space(space), spaces.Dict | spaces.Tuple)


class Exported(nn.Module):
    """Raw observations (N, ...) -> the likeliest actions (N, ...) for `env.step`: what `Controller` computes.

    With a stack of K > 1 observations it reads (N, K, ...), the oldest first.
    """

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.read, self.decode = Reader(trained), Decoder(trained)
        self.policy, self.distribution = copy.deepcopy(trained.policy), trained.policy.distribution

    def forward(self, observation: Inputs) -> Tensor:
        return self.decode(self.distribution.mode(self.policy(self.read(observation))))  # type: ignore[no-any-return]


class Reader(nn.Module):
    """The encoder of `Task.make_encoder`, then the `ObservationNormalizer`, for tensors."""

    mean: Tensor
    scale: Tensor
    shown: Tensor | None
    kept: Tensor | None

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        space, task, normalizer = trained.spaces[0], trained.task, trained.normalizer
        self.stack, self.entries = task.stack, named_entries(space)
        spec, _ = observation_encoder(space)
        self.shape, self.encoded = spec.shape, _torch_dtype(join(space).dtype)
        self.normalised, self.clip, moments = normalizer.enabled, normalizer.clip, normalizer.moments
        self.dtype = _torch_dtype(normalizer.dtype)  # of what the policy sees
        self.register_buffer("mean", torch.from_numpy(moments.mean))
        self.register_buffer("scale", torch.from_numpy(1 / np.sqrt(moments.variance + EPSILON)))
        for name, found in (("shown", find_shown(spec, task.observe, task.hide, task.id)), ("kept", normalizer.kept)):
            self.register_buffer(name, None if found is None else torch.from_numpy(found))

    def forward(self, observation: Inputs) -> Tensor:
        seen = self._encode(observation)
        if self.shown is not None:
            seen = seen.index_select(1, self.shown)
        if self.stack > 1:
            seen = seen.reshape(-1, self.stack, *seen.shape[1:])
        if self.normalised:
            scaled = ((seen.double() - self.mean) * self.scale).clamp(-self.clip, self.clip)
            seen = scaled if self.kept is None else torch.where(self.kept, seen.double(), scaled)
        return seen.to(self.dtype)

    def _encode(self, observation: Inputs) -> Tensor:
        """Observations (N, ...), or stacks of them (N, K, ...), as (N, O) or (N * K, O)."""
        encoded = [
            _encode_entry(space, observation[name] if isinstance(observation, dict) else observation)
            for name, space in self.entries
        ]
        joined = encoded[0] if len(encoded) == 1 else torch.cat([one.to(self.encoded) for one in encoded], dim=1)
        return joined.reshape(-1, *self.shape)


def _encode_entry(space: spaces.Space[Any], batch: Tensor) -> Tensor:
    """Values (N, ...) as numbers (N, size), with zeros and ones for choices."""
    match space:
        case spaces.Discrete():
            return nn.functional.one_hot(batch.flatten() - int(space.start), int(space.n))
        case spaces.MultiDiscrete():
            choices = zip(batch.reshape(-1, space.nvec.size).long().unbind(1), space.start.flat, strict=True)
            columns = zip((batch - int(first) for batch, first in choices), space.nvec.flat, strict=True)
            return torch.cat([nn.functional.one_hot(column, int(size)) for column, size in columns], dim=1)
    return batch.reshape(-1, int(np.prod(space.shape or ())))


class Decoder(nn.Module):
    """The decoder of `Task.make_decoder` for tensors."""

    low: Tensor
    high: Tensor
    start: Tensor
    factor: Tensor
    middle: Tensor

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        space = self.space = trained.spaces[1]
        for name in ("low", "high", "start"):  # of a Box, of a Discrete or a MultiDiscrete space
            if hasattr(space, name):
                self.register_buffer(name, torch.tensor(getattr(space, name)))
        scale = find_scale(space, trained.task.rescale_action)
        self.is_scaled = scale is not None
        for name, values in zip(("factor", "middle"), scale or (), strict=False):
            self.register_buffer(name, torch.from_numpy(values))

    def forward(self, action: Tensor) -> Tensor:
        match self.space:
            case spaces.Discrete():
                return action[:, 0] + self.start
            case spaces.MultiDiscrete():
                return action.reshape(-1, *self.space.shape) + self.start
            case spaces.MultiBinary():
                return action.reshape(-1, *self.space.shape).to(torch.int8)
        action = action.reshape(-1, *self.low.shape)
        if self.is_scaled:
            action = action.double() * self.factor + self.middle
        return torch.maximum(torch.minimum(action, self.high), self.low).to(self.low.dtype)


def _torch_dtype(dtype: Any) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype
