"""Films of a policy's episodes: renders the environment to MP4, with or without a display."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trpo_cli.errors import ConfigError, UserError, require_packages
from trpo_cli.play.episodes import STREAM, Audience, Episodes, Evaluation, play
from trpo_cli.run.signals import ExitAtOnce

if TYPE_CHECKING:
    import gymnasium

    from trpo_cli.envs.environments import Environments
    from trpo_cli.envs.make import Task
    from trpo_cli.play.trained import Trained
    from trpo_cli.samplers.acting import Step

Frame = NDArray[np.uint8]  # (H, W, 3)
MAX_RATE = 40  # frames per second; environments with more are filmed every second, third, ... step
DEFAULT_RATE = 30  # frames per second of an environment that declares none
SMALLEST = 160  # pixels a side; those of smaller pictures, such as those of MinAtar, are drawn several times as large
INSTALL = "pip install 'trpo-cli[video]'"
MODE, TRACK = "rgb_array", "track"


def film(trained: Trained, path: Path, plan: Episodes, seed: int, sample: bool) -> Evaluation:
    """Film the planned episodes, one after another, to `path`. The first is the first one of `evaluate` with this seed.

    The policy sees the same observations as there. Raises `ConfigError` if the environment renders no images, and
    `UserError` if they cannot be drawn on this machine.
    """
    from trpo_cli.envs.environments import Environments
    from trpo_cli.envs.make import Parallelism
    from trpo_cli.seeding import environment_seeds, isolate_globals

    task, rate = with_rendering(trained.task)
    every = -(-rate // MAX_RATE)
    seeds = environment_seeds(seed, STREAM, 1)
    with isolate_globals(seed, STREAM), contextlib.closing(Environments(task, 1, seeds, Parallelism("sync"))) as envs:
        first = draw_frame(envs)
        with open_film(path, first, rate / every) as write_frame:
            camera = Camera(lambda: write_frame(draw_frame(envs)), every)
            return play(envs, trained.policy, trained.normalizer, plan, seed, sample, camera)


class Camera(Audience):
    """Takes a picture of the only environment after every `every`-th step and at the end of each episode."""

    def __init__(self, shoot: Callable[[], Any], every: int) -> None:
        self.shoot, self.every, self.steps = shoot, every, 0

    def step(self, step: Step, counted: NDArray[np.bool_], ended: NDArray[np.bool_]) -> None:
        self.steps += 1
        if ended[0] or self.steps % self.every == 0:
            self.shoot()


def with_rendering(task: Task) -> tuple[Task, int]:
    """The task with rendering, and its frames per second. Raises `ConfigError` if it cannot render images."""
    with task.probe() as env:
        modes, rate = env.metadata.get("render_modes", []), int(env.metadata.get("render_fps", DEFAULT_RATE))
        camera = tracking_camera(env, task.kwargs)
    if MODE not in modes:
        offered = ", ".join(modes) or "none"
        raise ConfigError(f"--video: {task.id} cannot be filmed: it needs render mode {MODE}, but offers {offered}")
    return replace(task, kwargs={**camera, **task.kwargs, "render_mode": MODE}), rate


def tracking_camera(env: gymnasium.Env[Any, Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for the camera that follows the body, if the model has one and no other is configured."""
    import mujoco  # type: ignore[import-untyped]
    from gymnasium.envs.mujoco import MujocoEnv

    simulator: Any = env.unwrapped
    if not isinstance(simulator, MujocoEnv) or {"camera_name", "camera_id"} & kwargs.keys():
        return {}
    found = mujoco.mj_name2id(simulator.model, mujoco.mjtObj.mjOBJ_CAMERA, TRACK)
    return {"camera_name": TRACK} if found >= 0 else {}


def draw_frame(envs: Environments) -> Frame:
    """The current image of the environment, enlarged if it is small. Raises `UserError` if it cannot be drawn."""
    try:
        picture = np.asarray(envs.render())
        if picture.dtype.kind == "f" and picture.max() <= 1:  # as MinAtar draws
            picture = np.rint(255 * picture)
        frame = np.ascontiguousarray(picture, dtype=np.uint8)
    except Exception as error:
        raise UserError(
            f"--video: {envs.task.id} cannot be drawn: {type(error).__name__}: {error}\n"
            "Without a display, MuJoCo needs EGL or OSMesa: apt-get install libegl1 or libosmesa6 (MUJOCO_GL chooses). "
            f"Classic control and toy text need pygame: {INSTALL}"
        ) from error
    if frame.ndim != 3 or frame.shape[-1] != 3:
        raise UserError(
            f"--video: {envs.task.id} renders an array of shape {frame.shape} instead of (height, width, 3)"
        )
    times = max(1, -(-SMALLEST // min(frame.shape[:2])))
    return frame if times == 1 else frame.repeat(times, axis=0).repeat(times, axis=1)


@contextlib.contextmanager
def open_film(path: Path, first: Frame, rate: float) -> Iterator[Callable[[Frame], Any]]:
    """A function that adds a frame to a film, which starts with `first` and appears at `path` once it is complete.

    Raises `UserError` if it cannot be written.
    """
    import imageio_ffmpeg  # type: ignore[import-untyped]

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    height, width = first.shape[:2]
    frames = imageio_ffmpeg.write_frames(str(part), (width, height), fps=rate, macro_block_size=2)
    given = 0

    def write_frame(frame: Frame) -> None:
        nonlocal given
        frames.send(frame)
        given += 1

    with ExitAtOnce(lambda by: part.unlink(missing_ok=True)):
        try:
            frames.send(None)
            write_frame(first)
            yield write_frame
            frames.close()
            if _count_frames(part) != given:  # `close` says nothing if the encoder failed
                raise OSError("the film is not complete")
            os.replace(part, path)
        except OSError as error:
            raise UserError(f"--video: {path} cannot be written: the encoder failed; is the disk full?") from error
        finally:
            frames.close()
            part.unlink(missing_ok=True)


def _count_frames(path: Path) -> int:
    """The number of frames of a film, 0 if it cannot be read."""
    import imageio_ffmpeg

    try:
        return int(imageio_ffmpeg.count_frames_and_secs(path)[0])
    except RuntimeError:
        return 0


def prepare() -> None:
    """Check, before any work, that films can be made, and choose a renderer if there is no display.

    Raises `ConfigError` if there is no encoder.
    """
    require_packages("--video", "video", "imageio_ffmpeg")
    if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame's
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        if "MUJOCO_GL" not in os.environ and (renderer := next(filter(can_draw, ("egl", "osmesa")), None)):
            os.environ["MUJOCO_GL"] = renderer


def can_draw(renderer: str) -> bool:
    """Whether MuJoCo can draw with `renderer`, tried in a separate process, since a failure breaks the next attempt."""
    code = f"from mujoco.{renderer} import GLContext; GLContext(8, 8).make_current()"
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
