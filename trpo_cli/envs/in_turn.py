"""Environments of this process, stepped one after the other."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

from gymnasium.vector import AutoresetMode, SyncVectorEnv

from trpo_cli.envs.failure import Failure
from trpo_cli.envs.watched import Watched


class InTurn(SyncVectorEnv[Any, Any]):
    """A vector environment without autoreset and without infos; `reset(options={"reset_mask": mask})` resets some."""

    def __init__(self, make: Callable[[int], Watched], num_envs: int) -> None:
        """`make(i)` makes environment i. If one cannot be made, those before it are closed."""
        made: list[Watched] = []

        def one(index: int) -> Watched:
            made.append(make(index))
            return made[-1]

        makers = [functools.partial(one, index) for index in range(num_envs)]
        try:
            super().__init__(makers, copy=False, autoreset_mode=AutoresetMode.DISABLED)
        except BaseException:
            self.envs: list[Any] = made
            with contextlib.suppress(Failure):  # the error from making them matters more
                self.close_extras()
            raise

    def close_extras(self, **kwargs: Any) -> None:
        """Close every environment, even if others fail to close. Raises the first `Failure`."""
        failures = []
        for env in self.envs:
            try:
                env.close()
            except Failure as failure:
                failures.append(failure)
        for first in failures:
            raise first
