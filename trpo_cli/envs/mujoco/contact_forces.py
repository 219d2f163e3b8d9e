"""Contact forces out of the engine's own loop.

`cfrc_ext` is what `mj_rnePostConstraint` computes. A batch calls that only where a sensor asks, and at another stage
than Gymnasium, which calls it after the step. An engine plugin is called at the end of each step: so that very function
is made the plugin's. It takes less than a microsecond there, on the threads of the batch.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from pathlib import Path
from typing import Any

import mujoco  # type: ignore[import-untyped]
from gymnasium.envs.mujoco import MujocoEnv

NAME = "trpo_cli.contact_forces"
PASSIVE = 1 << 2  # mjPLUGIN_PASSIVE: a plugin that could exert forces on its body, and exerts none
LAYOUT = "4.0."  # of MuJoCo, whose mjplugin.h `Plugin` copies
FUNCTIONS = (
    *("nstate", "nsensordata", "init", "destroy", "copy", "reset", "compute", "advance", "visualize"),
    *("actuator_act_dot", "sdf_distance", "sdf_gradient", "sdf_staticdistance", "sdf_attribute", "sdf_aabb"),
)


class Plugin(ctypes.Structure):
    """mjpPlugin."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("nattribute", ctypes.c_int),
        ("attributes", ctypes.c_void_p),
        ("capabilityflags", ctypes.c_int),
        ("needstage", ctypes.c_int),
        *((name, ctypes.c_void_p) for name in FUNCTIONS),
    )


def feeling(env: MujocoEnv) -> Any:
    """The environment's model with the plugin in it, an MjModel; None on another MuJoCo or system."""
    if not _registered():
        return None
    spec = mujoco.MjSpec.from_file(env.fullpath)
    spec.activate_plugin(NAME)
    spec.add_plugin(name=NAME, plugin_name=NAME, active=True)
    plugin = spec.bodies[1].plugin
    plugin.name, plugin.plugin_name, plugin.active = NAME, NAME, True
    return spec.compile()


@functools.cache
def _registered() -> Plugin | None:
    """The plugin, known to the engine from now on. It is kept, for the engine reads its name again and again."""
    if sys.platform != "linux" or not mujoco.__version__.startswith(LAYOUT):
        return None
    library = Path(mujoco.__file__).with_name(f"libmujoco.so.{mujoco.__version__}")
    if not library.is_file():
        return None
    engine = ctypes.CDLL(str(library))
    system = ctypes.CDLL(None)
    # Threads of the batch call these without Python, so they are functions of C that take no notice of arguments: one
    # that returns 0, for "no state" and "all is well", and one that does nothing.
    zero, nothing = _address(system.sched_yield), _address(system.getpagesize)
    plugin = Plugin(
        name=NAME.encode(),
        capabilityflags=PASSIVE,
        nstate=zero,
        init=zero,
        reset=nothing,
        compute=nothing,
        advance=_address(engine.mj_rnePostConstraint),
    )
    return plugin if engine.mjp_registerPlugin(ctypes.byref(plugin)) >= 0 else None


def _address(function: Any) -> int | None:
    return ctypes.cast(function, ctypes.c_void_p).value
