"""Simulations that blow up: MuJoCo starts one anew in the middle of a step, counts that, and goes on regardless.

It also writes MUJOCO_LOG.TXT into the working directory. From the import of this module on it does not.
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
"""Where MuJoCo counts them, among all warnings."""

# The engine calls it from threads without Python: so it is a function of C, which takes no notice of its argument.
mujoco.set_mju_user_warning(ctypes.pythonapi.Py_GetVersion)


def unstable(index: int, counts: Any) -> Failure:
    """Of environment `index`, whose counts of `WARNINGS` (4,) are not all zero."""
    cause = list(CAUSES.values())[int(counts.argmax())]
    return Failure(
        f": the simulation of environment {index} became unstable",
        f" (bad {cause}): its actions or forces are too large for the time step",
    )
