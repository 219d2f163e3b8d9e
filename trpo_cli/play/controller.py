"""From what an environment shows to what it is to do: encode, remember, normalise, act, decode."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trpo_cli.envs.joining import own_space
from trpo_cli.envs.spaces import find_unreadable
from trpo_cli.envs.view import begin_stack, push_on_stack, stack_spec
from trpo_cli.errors import UserError
from trpo_cli.play.given import Given
from trpo_cli.play.trained import Trained

Array = NDArray[Any]


class Controller:
    """A trained policy with all that surrounds it; it takes raw observations and returns actions for `env.step`.

    Its memory has what the policy remembers. With a stack of K > 1 observations, 1 and the last stack, K x O numbers,
    come before that, and zeros begin an episode.
    """

    def __init__(self, trained: Trained) -> None:
        self.trained, self.stack = trained, trained.task.stack
        space, self.action_space = trained.spaces
        self.observation_space, self.as_batch = own_space(space), Given(space)
        self.spec, self._encode = trained.task.make_encoder(space)
        _, self._decode = trained.task.make_decoder(self.action_space)
        self._act = trained.policy.actor()
        self._stacked = stack_spec(self.spec, self.stack)
        self._kept = 1 + self._stacked.size if self.stack > 1 else 0  # numbers of the memory that are not the policy's
        self.memory_size = self._kept + trained.policy.memory_size
        self.memory_dtype = np.dtype(np.float64 if self._kept else np.float32)

    def encode(self, observation: Array) -> Array:
        """Encode raw observations (N, ...) as (N, O). Raises `UserError` if one is not finite."""
        encoded = self._encode(observation)
        if (row := find_unreadable(encoded)) is not None:
            named = {entry.name: encoded[row, entry.place] for entry in self.spec.entries if entry.name}
            for name, numbers in named.items():
                if find_unreadable(numbers) is not None:
                    raise UserError(f"entry '{name}' of the observation is not finite: {numbers}")
            raise UserError(f"observation: is not finite: {observation[row]}")
        return encoded

    def __call__(self, observation: Array, memory: Array, noise: Array | None) -> tuple[Array, Array]:
        """Raw observations (N, ...), memory (N, M) and noise (N, K) -> actions (N, ...) and the memory after them.

        Without noise the actions are the likeliest ones.
        """
        seen, own = self.encode(observation), memory[:, self._kept :].astype(np.float32, copy=False)
        if not self._kept:
            return self.act(seen, own, noise)
        stacks = push_on_stack(memory[:, 1 : self._kept].reshape(-1, *self._stacked.shape), seen)
        begins = memory[:, 0] == 0
        stacks[begins] = begin_stack(seen[begins], self.stack)
        action, own = self.act(stacks.astype(self.spec.dtype), own, noise)
        ones = np.ones((len(stacks), 1))
        return action, np.concatenate([ones, stacks.reshape(-1, self._stacked.size), own], axis=1)

    def act(self, seen: Array, memory: Array, noise: Array | None) -> tuple[Array, Array]:
        """Encoded observations (N, O), or stacks of them, and the policy's memory -> actions (N, ...) and memory."""
        action, memory = self._act(self.trained.normalizer(seen), memory, noise)
        return self._decode(action), memory
