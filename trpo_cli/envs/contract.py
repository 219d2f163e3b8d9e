"""Checks what an environment returns against what it declares; `leaf.py` does so for observations."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from gymnasium import spaces

from trpo_cli.envs.failure import ContractViolation
from trpo_cli.envs.joining import Joined, Joining
from trpo_cli.envs.leaf import Leaf, describe_types, describe_value

RESET, STEP = "(observation, info)", "(observation, reward, terminated, truncated, info)"
OLD = "; Gym did before version 0.26"


class Contract:
    """The contract of environment number `index`, whose observations are in `space` once composite ones are joined.

    `check_reset` and `check_step` take what the environment returned and raise `ContractViolation` if it is invalid.
    Infos are not checked; the one of the last step is kept as `info`.
    """

    def __init__(self, space: spaces.Space[Any], index: int) -> None:
        self.space, self._index = space, index
        self.info: Any = {}
        self._observation = Joining(space, index) if isinstance(space, Joined) else Leaf(space, index).check

    def check_reset(self, returned: Any) -> Any:
        """The observation, with the declared shape and type."""
        if not isinstance(returned, tuple | list) or len(returned) != 2:
            old = "" if returned is None or isinstance(returned, tuple) else OLD
            raise self._violation(f"reset does not return {RESET}", describe_types(returned) + old)
        return self._observation(returned[0])

    def check_step(self, returned: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """The observation, reward, terminated and truncated, and an empty info."""
        try:
            observation, reward, terminated, truncated, self.info = returned
        except (TypeError, ValueError):
            old = OLD if isinstance(returned, tuple) and len(returned) == 4 else ""
            raise self._violation(f"step does not return {STEP}", describe_types(returned) + old) from None
        return (
            self._observation(observation),
            reward if type(reward) is float else self._number(reward),
            terminated if type(terminated) is bool else self._flag("terminated", terminated),
            truncated if type(truncated) is bool else self._flag("truncated", truncated),
            {},
        )

    def explain_unpacking(self, error: BaseException) -> ContractViolation | None:
        """The violation behind an `error` of a Gymnasium wrapper that could not unpack what it was given; else None."""
        expected = re.search(r"values to unpack \(expected ([25])\b", str(error))
        if expected is None or not _is_in_wrapper(error):
            return None
        name = f"reset does not return {RESET}" if expected[1] == "2" else f"step does not return {STEP}"
        return self._violation(name, f"{error}{OLD if 'got 4' in str(error) else ''}")

    def _number(self, given: Any) -> float:
        """`given` as a reward."""
        try:
            if type(given) is int or _kind(given) in "biufO":
                return float(given)
        except (TypeError, ValueError, OverflowError):
            pass
        raise self._violation("reward is not one number", describe_value(given))

    def _flag(self, name: str, given: Any) -> bool:
        if _kind(given) in "biuf" and given in (0, 1):
            return bool(given)
        raise self._violation(f"{name} is neither true nor false", describe_value(given))

    def _violation(self, what: str, more: str) -> ContractViolation:
        return ContractViolation(f": {what}", f" of environment {self._index}: {more}")


def _kind(value: Any) -> str:
    """NumPy's letter for the kind of a single value; a question mark for anything else."""
    try:
        array = np.asarray(value)
    except Exception:  # for example rows of different lengths
        return "?"
    return array.dtype.kind if array.ndim == 0 else "?"


def _is_in_wrapper(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__")).startswith("gymnasium.wrappers.")
