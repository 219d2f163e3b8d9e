"""Computes contact forces inside the engine's own loop.

`mj_rnePostConstraint` computes `cfrc_ext`. Gymnasium calls it after a step; a batch calls it only for sensors and at
another stage. Engine plugins are called at the end of each step, so this function is registered as one. It takes less
than a microsecond there, on the threads of the batch.
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
PASSIVE = 1 << 2  # mjPLUGIN_PASSIVE, a plugin that may exert forces on its body; this one exerts none
LAYOUT = "4.0."  # the MuJoCo version whose mjplugin.h `Plugin` follows
FUNCTIONS = (
    *("nstate", "nsensordata", "init", "destroy", "copy", "reset", "compute", "advance", "visualize"),
    *("actuator_act_dot", "sdf_distance", "sdf_gradient", "sdf_staticdistance", "sdf_attribute", "sdf_aabb"),
)


class Plugin(ctypes.Structure):
    """The C structure mjpPlugin."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("nattribute", ctypes.c_int),
        ("attributes", ctypes.c_void_p),
        ("capabilityflags", ctypes.c_int),
        ("needstage", ctypes.c_int),
        *((name, ctypes.c_void_p) for name in FUNCTIONS),
    )


def model_with_plugin(env: MujocoEnv) -> Any:
    """The environment's MjModel with the plugin in it; None for another MuJoCo version or outside Linux."""
    if not _register_plugin():
        return None
    spec = mujoco.MjSpec.from_file(env.fullpath)
    spec.activate_plugin(NAME)
    spec.add_plugin(name=NAME, plugin_name=NAME, active=True)
    plugin = spec.bodies[1].plugin
    plugin.name, plugin.plugin_name, plugin.active = NAME, NAME, True
    return spec.compile()


@functools.cache
def _register_plugin() -> Plugin | None:
    """Register the plugin with the engine, once. It is cached, since the engine keeps reading its memory."""
    if sys.platform != "linux" or not mujoco.__version__.startswith(LAYOUT):
        return None
    library = Path(mujoco.__file__).with_name(f"libmujoco.so.{mujoco.__version__}")
    if not library.is_file():
        return None
    engine = ctypes.CDLL(str(library))
    system = ctypes.CDLL(None)
    # Threads of the batch call these without the interpreter, so they are C functions that ignore their arguments: one
    # that returns 0, for "no state" and "success", and one without any effect.
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
