"""Running statistics of observations and rewards, which belong to the run and are saved with it.

They change only between rollouts. Within an iteration the policy is therefore one fixed function of raw observations,
and the KL divergence compares policies rather than scales.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trpo_cli.data import ObservationSpec

Floats = NDArray[np.float64]
EPSILON = 1e-8


class Summary(NamedTuple):
    """The moments of one batch."""

    size: int
    mean: Floats
    variance: Floats

    @classmethod
    def of(cls, batch: Floats) -> Summary:
        """Those of the rows of `batch` (K, ...)."""
        return cls(len(batch), batch.mean(0), batch.var(0))


class RunningMoments:
    """Mean and variance of a stream of arrays of one shape, merged batch by batch (Chan et al. 1979)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.count = shape, 0
        self.mean = np.zeros(shape)
        self.variance = np.ones(shape)

    def add(self, batch: Summary) -> None:
        """Add a batch of arrays of this shape."""
        count, mean, variance = batch
        total = self.count + count
        shift = mean - self.mean
        squares = self.variance * self.count + variance * count + shift**2 * self.count * count / total
        self.mean = self.mean + shift * count / total
        self.variance = squares / total
        self.count = total

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "mean": self.mean.tolist(), "variance": self.variance.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned. Raises `ValueError` for what no stream of numbers has."""
        self.count = int(state["count"])
        self.mean, self.variance = (np.array(state[name], float).reshape(self.shape) for name in ("mean", "variance"))
        is_possible = np.isfinite([self.mean, self.variance]).all() and (self.variance >= 0).all() and self.count >= 0
        if not is_possible:
            raise ValueError("its running statistics are not finite, or have a negative variance or count")


class ObservationNormalizer:
    """(o - mean) / std of all observations before this rollout, clipped to +-`clip`; the identity if not `enabled`.

    Entries that are choices stay zeros and ones: those where `kept` (O) is true; None if there are none.
    """

    def __init__(self, spec: ObservationSpec, enabled: bool, clip: float) -> None:
        self.moments = RunningMoments(spec.shape)
        kept = np.zeros(spec.size, dtype=bool)
        for entry in spec.entries:
            kept[entry.place] = not entry.is_numeric
        self.kept = kept.reshape(spec.shape) if kept.any() else None
        self.enabled, self.clip = enabled, clip
        self.dtype = np.dtype(np.float32) if enabled else spec.stored  # of what policies see
        self._learns = enabled or not spec.is_image
        self.is_identity = self.dtype == spec.dtype and not enabled
        self._scale = self._inverse_deviation()

    def __call__(self, observation: NDArray[Any], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """(..., O) -> the same shape, into `out` if given. Before the first `update`: mean 0, deviation 1."""
        out = np.empty(observation.shape, dtype=self.dtype) if out is None else out
        if self.enabled:
            scaled = (observation - self.moments.mean) * self._scale
            np.maximum(np.minimum(scaled, self.clip, out=scaled), -self.clip, out=out)
            if self.kept is not None:
                np.copyto(out, observation, where=self.kept)
        else:
            out[...] = observation
        return out

    def update(self, observation: NDArray[Any]) -> None:
        """Learn from raw observations (..., O)."""
        if self.enabled:
            self.merge([self.summarise(observation)])

    def summarise(self, observation: NDArray[Any]) -> Summary:
        """The moments of raw observations (..., O), for `merge`."""
        return Summary.of(observation.reshape(-1, *self.moments.shape).astype(np.float64, copy=False))

    def merge(self, summaries: Iterable[Summary]) -> None:
        """Learn from observations that were summarised, one batch after the other."""
        for one in summaries:
            self.moments.add(one)
        self._scale = self._inverse_deviation()

    def _inverse_deviation(self) -> Floats:
        inverse: Floats = 1 / np.sqrt(self.moments.variance + EPSILON)
        return inverse

    def state_dict(self) -> dict[str, Any]:
        """Return the moments; of images, which have very many, only the shape where they are not used."""
        return self.moments.state_dict() if self._learns else {"shape": list(self.moments.shape)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self._learns:
            self.moments.load_state_dict(state)
            self._scale = self._inverse_deviation()


class RewardScaler:
    """Rewards divided by the standard deviation of the running discounted return, clipped to +-`clip`.

    The mean is left alone: shifting rewards would change the task. The identity when not `enabled`. With `sign`, it
    takes the signs of rewards in place of these (Mnih et al. 2015).
    """

    def __init__(self, num_envs: int, gamma: float, enabled: bool, clip: float, sign: bool = False) -> None:
        self.moments = RunningMoments((1,))
        self.running_return = np.zeros(num_envs)
        self.gamma, self.enabled, self.clip, self.sign = gamma, enabled, clip, sign

    def __call__(self, reward: Floats, done: NDArray[np.bool_]) -> Floats:
        """Learn from the rewards (T, N) of a rollout, where `done` (T, N) ends an episode, and return them scaled."""
        if not self.enabled:
            return self.scaled(reward)
        learned = np.sign(reward) if self.sign else reward
        returns = np.empty_like(learned)
        for t in range(len(learned)):
            returns[t] = self.running_return = self.gamma * self.running_return + learned[t]
            self.running_return = np.where(done[t], 0.0, self.running_return)
        self.moments.add(Summary.of(returns.reshape(-1, 1)))
        return self.scaled(reward)

    def abandon(self) -> None:
        """Forget the episodes that have not ended."""
        self.running_return[:] = 0

    def scaled(self, reward: Floats) -> Floats:
        """`reward` on the scale reached, without learning from it."""
        reward = np.sign(reward) if self.sign else reward
        if not self.enabled:
            return reward
        scaled: Floats = reward / np.sqrt(self.moments.variance + EPSILON)
        return scaled.clip(-self.clip, self.clip)

    def state_dict(self) -> dict[str, Any]:
        return {"moments": self.moments.state_dict(), "running_return": self.running_return.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.moments.load_state_dict(state["moments"])
        self.running_return = np.array(state["running_return"])
