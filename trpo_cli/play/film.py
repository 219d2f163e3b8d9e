"""Films of a policy's episodes: what the environment renders, as MP4, with a display or without one."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trpo_cli.errors import ConfigError, UserError
from trpo_cli.play.episodes import STREAM, Episodes, Evaluation, play
from trpo_cli.run.signals import AtOnce

if TYPE_CHECKING:
    import gymnasium

    from trpo_cli.envs.environments import Environments
    from trpo_cli.envs.make import Task
    from trpo_cli.play.trained import Trained

Frame = NDArray[np.uint8]  # (H, W, 3)
SMOOTH = 40  # frames a second; of an environment with more, every second, third, ... one is filmed
UNSAID = 30  # frames a second of an environment that does not say how many it has
INSTALL = "pip install 'trpo-cli[video]'"
MODE, TRACK = "rgb_array", "track"


def film(trained: Trained, path: Path, plan: Episodes, seed: int, sample: bool) -> Evaluation:
    """Write the planned episodes, one after the other, to `path`: the first is the first of `evaluate` with that seed.

    The policy sees what it sees there. Raises `ConfigError` if the environment has no such pictures, `UserError` if
    they cannot be drawn here.
    """
    from trpo_cli.envs.environments import Environments
    from trpo_cli.envs.make import Parallelism
    from trpo_cli.seeding import apart, environment_seeds

    task, rate = filmable(trained.task)
    every = -(-rate // SMOOTH)
    seeds = environment_seeds(seed, STREAM, 1)
    with apart(seed, STREAM), contextlib.closing(Environments(task, 1, seeds, Parallelism("sync"))) as envs:
        first = picture(envs)
        with written(path, first, rate / every) as show:
            steps = 0

            def seen(ended: bool) -> None:
                nonlocal steps
                steps += 1
                if ended or steps % every == 0:
                    show(picture(envs))

            return play(envs, trained.policy, trained.normalizer, plan, seed, sample, seen)


def filmable(task: Task) -> tuple[Task, int]:
    """The task with pictures, and how many of them make a second. Raises `ConfigError` if it has none."""
    with task.looked_at() as env:
        modes, rate = env.metadata.get("render_modes", []), int(env.metadata.get("render_fps", UNSAID))
        camera = following(env, task.kwargs)
    if MODE not in modes:
        offers = f"only {', '.join(modes)}" if modes else "none at all"
        raise ConfigError(f"--video: {task.id} cannot be filmed: of render modes it offers {offers}, and not {MODE}")
    return replace(task, kwargs={**camera, **task.kwargs, "render_mode": MODE}), rate


def following(env: gymnasium.Env[Any, Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The model's camera that stays with the body, if it has one and no other is asked for: else the body runs away."""
    import mujoco  # type: ignore[import-untyped]
    from gymnasium.envs.mujoco import MujocoEnv

    simulator: Any = env.unwrapped
    if not isinstance(simulator, MujocoEnv) or {"camera_name", "camera_id"} & kwargs.keys():
        return {}
    found = mujoco.mj_name2id(simulator.model, mujoco.mjtObj.mjOBJ_CAMERA, TRACK)
    return {"camera_name": TRACK} if found >= 0 else {}


def picture(envs: Environments) -> Frame:
    """What the environment shows now. Raises `UserError` if nothing can be drawn."""
    try:
        frame = np.ascontiguousarray(envs.render(), dtype=np.uint8)
    except Exception as error:
        raise UserError(
            f"--video: {envs.task.id} cannot be drawn: {type(error).__name__}: {error}\n"
            "MuJoCo without a display needs EGL or OSMesa: apt-get install libegl1, or libosmesa6 (MUJOCO_GL chooses); "
            f"classic control and toy text need pygame: {INSTALL}"
        ) from error
    if frame.ndim != 3 or frame.shape[-1] != 3:
        raise UserError(f"--video: {envs.task.id} draws an array of shape {frame.shape}, not (height, width, 3)")
    return frame


@contextlib.contextmanager
def written(path: Path, first: Frame, rate: float) -> Iterator[Callable[[Frame], Any]]:
    """A function that adds a frame to the film at `path`, which begins with `first` and appears when it is whole."""
    import imageio_ffmpeg  # type: ignore[import-untyped]

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    height, width = first.shape[:2]
    frames = imageio_ffmpeg.write_frames(str(part), (width, height), fps=rate, macro_block_size=2)
    with AtOnce(lambda by: part.unlink(missing_ok=True)):
        try:
            frames.send(None)
            frames.send(first)
            yield frames.send
            frames.close()
            os.replace(part, path)
        finally:
            frames.close()
            part.unlink(missing_ok=True)


def prepare(path: Path) -> None:
    """What a film needs, before any work: a place, an encoder, and a renderer where there is no display.

    Raises `UserError` if there is no encoder, the place is taken, or it is no place for a film.
    """
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        raise UserError(f"--video: imageio-ffmpeg is not installed: {INSTALL}")
    if path.suffix != ".mp4":
        raise UserError(f"--video: {path} should end in .mp4")
    if path.exists():
        raise UserError(f"--video: {path} is there already, and is left alone")
    if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame's
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        if "MUJOCO_GL" not in os.environ and (renderer := next(filter(draws, ("egl", "osmesa")), None)):
            os.environ["MUJOCO_GL"] = renderer


def draws(renderer: str) -> bool:
    """Whether MuJoCo can draw with it: tried in a process of its own, since one that fails spoils the next."""
    code = f"from mujoco.{renderer} import GLContext; GLContext(8, 8).make_current()"
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
