"""Many short jobs, shared among a few environments that step together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Jobs:
    """`count` jobs over N environments.

    An environment whose job has ended takes the next one in line. When none is left it repeats its last job, which does
    not count, because environments step together.
    """

    def __init__(self, count: int, num_envs: int) -> None:
        self.count, self._begun = count, min(count, num_envs)
        self.of = np.minimum(np.arange(num_envs), count - 1)  # (N,), the job of each environment
        self.busy = np.arange(num_envs) < count  # (N,), whether it counts

    def advance(self, rows: NDArray[np.int64]) -> None:
        """The environments `rows` (K,) have ended their jobs."""
        free = rows[self.busy[rows]]
        following = self._begun + np.arange(len(free))
        self._begun += len(free)
        given = following < self.count
        self.of[free[given]] = following[given]
        self.busy[free[~given]] = False
