"""Detects unstable simulations, which MuJoCo silently resets in the middle of a step, only counting a warning.

MuJoCo would also write MUJOCO_LOG.TXT to the working directory; importing this module prevents that.
"""

from __future__ import annotations

import ctypes
from typing import Any

import mujoco  # type: ignore[import-untyped]

from trpo_cli.envs.failure import Failure

CAUSES = {
    mujoco.mjtWarning.mjWARN_BADQPOS: "position",
    mujoco.mjtWarning.mjWARN_BADQVEL: "velocity",
    mujoco.mjtWarning.mjWARN_BADQACC: "acceleration",
    mujoco.mjtWarning.mjWARN_BADCTRL: "control",
}
WARNINGS = slice(min(map(int, CAUSES)), max(map(int, CAUSES)) + 1)
"""Their positions among MuJoCo's warning counts."""

# Engine threads call it without the interpreter, so it is a C function that ignores its argument.
mujoco.set_mju_user_warning(ctypes.pythonapi.Py_GetVersion)


def instability(index: int, counts: Any) -> Failure:
    """The failure of environment `index`, whose counts of `WARNINGS` (4,) are not all zero."""
    cause = list(CAUSES.values())[int(counts.argmax())]
    return Failure(
        f": the simulation of environment {index} became unstable",
        f" (bad {cause}): its actions or forces are too large for the time step",
    )
