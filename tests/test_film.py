"""Films: every frame is what the environment showed, of the episodes that are evaluated; nothing is overwritten."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from conftest import Command, small_disk

from trpo_cli.errors import UserError
from trpo_cli.play.film import can_draw, open_film

SMALL = ("total_steps=64", "sampler.num_envs=2", "sampler.steps_per_iteration=64", "eval.every=0", "hydra.run.dir=run")
PAINTED = ("plugins=[probes]", "env=gym", "env.id=Probe/Painted-v0", *SMALL)
PLAYED = ("run", "--plugins", "probes", "--episodes", "1")


def frames(path: Path) -> tuple[np.ndarray, float]:
    """A film's frames (F, H, W, 3), and how many there are in a second."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    found = re.search(rb", (\d+)x(\d+).*, ([\d.]+) fps", done.stderr)
    assert found is not None
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, int(found[2]), int(found[1]), 3), float(found[3])


def test_a_film_shows_the_evaluated_episodes(trpo_train: Command, trpo_eval: Command, tmp_path: Path) -> None:
    assert trpo_train(*PAINTED).status == 0
    done = trpo_eval(*PLAYED, "--video", "films/one.mp4", "--video-episodes", "2")
    assert done.status == 0, done.err
    shown, rate = frames(tmp_path / "films" / "one.mp4")
    assert rate == 10
    assert shown.mean((1, 2, 3)) == pytest.approx(
        [20 * time for time in (*range(11), *range(1, 11))], abs=4
    )  # it is compressed
    mean, returned = re.search(r"\n\| +([-.\d]+) ", done.out), re.search(r"returns: ([-.\d]+) in 10 steps, ", done.out)
    assert mean is not None
    assert returned is not None
    assert mean[1] == returned[1]
    assert [path.name for path in (tmp_path / "films").iterdir()] == ["one.mp4"]


def test_what_cannot_be_filmed_is_said(trpo_train: Command, trpo_eval: Command, tmp_path: Path) -> None:
    assert trpo_train(*PAINTED, "env.kwargs.broken=true").status == 0
    done = trpo_eval(*PLAYED, "--video", "new.mp4")
    assert done.status == 1
    assert "Probe/Painted-v0 cannot be drawn: RuntimeError: no paint" in done.err
    (tmp_path / "old.mp4").write_bytes(b"mine")
    for video, said in (
        ("old.mp4", "old.mp4 already exists"),
        ("film.gif", "film.gif, but its name has to end in .mp4"),
    ):
        done = trpo_eval(*PLAYED, "--video", video)
        assert said in done.err
        assert done.out == ""
    assert (tmp_path / "old.mp4").read_bytes() == b"mine"
    assert trpo_train(*PAINTED, "env.id=Probe/Constant-v0", "hydra.run.dir=blind").status == 0
    done = trpo_eval("blind", *PLAYED[1:], "--video", "new.mp4")
    assert "Probe/Constant-v0 cannot be filmed: it needs render mode rgb_array, but offers none" in done.err
    assert "films one run, but 2 were given" in trpo_eval("run", "blind", "--video", "new.mp4").err
    assert not list(tmp_path.glob("*new*"))


def shoot(path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (9, 32, 32, 3), np.uint8)
    with open_film(path, images[0], 10.0) as write_frame:
        for image in images[1:]:
            write_frame(image)


@pytest.mark.parametrize("size", [0, 1000, 4000])
def test_a_film_is_complete_or_absent(size: int, tmp_path: Path) -> None:
    with small_disk(size), pytest.raises(UserError, match=r"film.mp4 cannot be written"):
        shoot(tmp_path / "film.mp4")
    assert list(tmp_path.iterdir()) == []
    shoot(tmp_path / "film.mp4")
    assert len(frames(tmp_path / "film.mp4")[0]) == 9


def test_without_a_display(
    trpo_train: Command, trpo_eval: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("SDL_VIDEODRIVER", "PYGAME_HIDE_SUPPORT_PROMPT", "MUJOCO_GL"):
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    assert trpo_train("env=CartPole-v1", *SMALL).status == 0
    done = trpo_eval("run", "--episodes", "1", "--video", "pole.mp4")
    assert done.status == 0, done.err
    assert min(frame.std() for frame in frames(tmp_path / "pole.mp4")[0]) > 10
    if not (can_draw("egl") or can_draw("osmesa")):
        pytest.skip("MuJoCo can draw with neither EGL nor OSMesa here")
    assert trpo_train("env=Hopper-v4", *SMALL[:-1], "hydra.run.dir=hopper").status == 0
    done = trpo_eval("hopper", "--episodes", "1", "--max-steps", "8", "--video", "hopper.mp4")
    assert done.status == 0, done.err
    shown, rate = frames(tmp_path / "hopper.mp4")
    assert (len(shown), rate) == (3, 31.25)
    assert min(frame.std() for frame in shown) > 10
    assert np.abs(shown[0].astype(float) - shown[-1]).mean() > 0.1
