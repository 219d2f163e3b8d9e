"""Returns and lengths of episodes, neither normalised nor discounted."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trpo_cli.columns import EPISODES, INFO, RECENT, RETURN
from trpo_cli.envs.infos import Infos, mean_where_present

WINDOW = 100  # finished episodes that the reported means are taken over


def ages(ended: NDArray[np.bool_], before: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many steps each episode has behind it at the times 0 to T (T + 1, N).

    `ended` (T, N) says after which steps one ended, and `before` (N,) is the age at time 0.
    """
    times = np.arange(len(ended) + 1)[:, None]
    begun = np.maximum.accumulate(np.concatenate([-before[None], np.where(ended, times[1:], -before)]))
    return times - begun


class FinishedEpisodes:
    """The last `WINDOW` finished episodes, those of the latest iteration, and their number so far."""

    def __init__(self, log_info: Sequence[str] = ()) -> None:
        """`log_info` are the names of numbers in the infos at the end of episodes."""
        self.recent: list[float] = []  # returns; an iteration begins and ends between two checkpoints
        self.returns: deque[float] = deque(maxlen=WINDOW)
        self.lengths: deque[int] = deque(maxlen=WINDOW)
        self.infos: dict[str, deque[float]] = {name: deque(maxlen=WINDOW) for name in log_info}
        self.finished = 0

    def record(self, returns: NDArray[np.float64], lengths: NDArray[np.int64], infos: Sequence[Infos] = ()) -> None:
        """Add the K episodes that ended in one iteration: returns (K,), lengths (K,) in steps, and their infos."""
        self.recent = returns.tolist()
        self.returns.extend(self.recent)
        self.lengths.extend(lengths.tolist())
        for some in infos:
            for name, values in some.items():
                self.infos[name].extend(values.tolist())
        self.finished += len(returns)

    def metrics(self) -> dict[str, float | None]:
        """Means over the last `WINDOW` finished episodes and over those of the latest iteration, None where there are
        none; `rollout/episodes` counts them all."""
        return {
            RETURN: float(np.mean(self.returns)) if self.returns else None,
            RECENT: float(np.mean(self.recent)) if self.recent else None,
            "rollout/episode_length_mean": float(np.mean(self.lengths)) if self.lengths else None,
            EPISODES: float(self.finished),
            **{f"rollout{INFO}{name}": mean_where_present(values) for name, values in self.infos.items()},
        }

    def state_dict(self) -> dict[str, Any]:
        infos = {"infos": {name: list(values) for name, values in self.infos.items()}} if self.infos else {}
        return {"returns": list(self.returns), "lengths": list(self.lengths), "finished": self.finished, **infos}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.returns = deque(state["returns"], maxlen=WINDOW)
        self.lengths = deque(state["lengths"], maxlen=WINDOW)
        self.finished = state["finished"]
        self.infos = {name: deque(state["infos"][name], maxlen=WINDOW) for name in self.infos}


class EpisodeStatistics(FinishedEpisodes):
    """Statistics of episodes in N environments."""

    def __init__(self, num_envs: int, log_info: Sequence[str] = ()) -> None:
        super().__init__(log_info)
        self.running_return = np.zeros(num_envs)
        self.running_length = np.zeros(num_envs, dtype=np.int64)

    def add(self, reward: NDArray[Any], done: NDArray[np.bool_], infos: Sequence[Infos] = ()) -> None:
        """Add the T steps of one iteration: `reward` (T, N), which episodes ended with each, and their infos."""
        returns, lengths = [self.running_return[:0]], [self.running_length[:0]]
        for t, ended in enumerate(done):
            self.running_return += reward[t]
            self.running_length += 1
            if ended.any():
                returns.append(self.running_return[ended])
                lengths.append(self.running_length[ended])
                self.running_return[ended], self.running_length[ended] = 0, 0
        self.record(np.concatenate(returns), np.concatenate(lengths), infos)

    def abandon(self) -> None:
        """Forget unfinished episodes."""
        self.running_return[:], self.running_length[:] = 0, 0

    def state_dict(self) -> dict[str, Any]:
        running = {"running_return": self.running_return.tolist(), "running_length": self.running_length.tolist()}
        return {**running, **super().state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.running_return = np.array(state["running_return"])
        self.running_length = np.array(state["running_length"], dtype=np.int64)
