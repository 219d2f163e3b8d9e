"""TensorBoard's files after a run went on: every row once, whatever the killed process had written of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from comparison import scalars
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_logger import row

from trpo_cli.columns import RETURN
from trpo_cli.run.event_files import cut_back
from trpo_cli.run.logger import Kept, Logger


def written(directory: Path, *steps: int) -> int:
    """Log these rows; how many bytes `metrics.csv` has then."""
    with Logger(directory, RETURN, total_steps=100) as logger:
        for step in steps:
            logger.write(step, row(policy__kl=step / 8))
        return logger.sync()


def events(directory: Path) -> Path:
    return max((directory / "tensorboard").iterdir())


def go_on(directory: Path, after: int, written: int, *steps: int) -> None:
    with Logger(directory, RETURN, 100, after, Kept.read(directory, written)) as logger:
        for step in steps:
            logger.write(step, row(policy__kl=step / 8))


def assert_rows(directory: Path, *steps: int) -> None:
    points = scalars(directory)
    assert "policy/own" in points
    for found in points.values():
        assert [step for step, _ in found] == list(steps)
    assert points["policy/kl"] == [(step, step / 8) for step in steps]
    assert [line.split(",")[0] for line in (directory / "metrics.csv").read_text().splitlines()[1:]] == [
        str(step) for step in steps
    ]


def test_what_came_after_the_checkpoint_is_dropped(tmp_path: Path) -> None:
    size = written(tmp_path, 10, 20)
    (tmp_path / "metrics.csv").unlink()
    for path in (tmp_path / "tensorboard").iterdir():
        path.unlink()
    written(tmp_path, 10, 20, 30, 40)
    go_on(tmp_path, 20, size, 30, 40, 50)
    assert_rows(tmp_path, 10, 20, 30, 40, 50)


@pytest.mark.parametrize("lost", [1, 100, 700, 1_500, 100_000])
def test_what_a_killed_process_had_not_written_is_filled_in(tmp_path: Path, lost: int) -> None:
    size = written(tmp_path, 10, 20, 30)
    data = events(tmp_path).read_bytes()
    events(tmp_path).write_bytes(data[: max(0, len(data) - lost)])
    go_on(tmp_path, 30, size, 40)
    assert_rows(tmp_path, 10, 20, 30, 40)


def test_it_may_go_on_any_number_of_times(tmp_path: Path) -> None:
    size = written(tmp_path, 10, 20)
    for _ in range(3):
        go_on(tmp_path, 20, size, 30, 40)
    go_on(tmp_path, 20, size, 30)
    assert_rows(tmp_path, 10, 20, 30)


def test_whoever_looks_on_is_told_what_is_void(tmp_path: Path) -> None:
    size = written(tmp_path, 10, 20, 30)
    watching = EventAccumulator(str(tmp_path / "tensorboard"), {"scalars": 0}).Reload()
    assert [event.step for event in watching.Scalars("policy/kl")] == [10, 20, 30]
    rows = (tmp_path / "metrics.csv").read_bytes()[:size].splitlines(keepends=True)
    go_on(tmp_path, 20, sum(map(len, rows[:3])), 30)
    watching.Reload()
    assert [event.step for event in watching.Scalars("policy/kl")] == [10, 20, 30]


@pytest.mark.parametrize("position", [0, 30, 200, 900])
def test_damage_ends_what_is_believed(tmp_path: Path, position: int) -> None:
    size = written(tmp_path, 10, 20, 30)
    data = bytearray(events(tmp_path).read_bytes())
    data[position : position + 8] = b"\xff" * 8
    events(tmp_path).write_bytes(data)
    go_on(tmp_path, 30, size, 40)
    assert_rows(tmp_path, 10, 20, 30, 40)


def test_nothing_logged_is_nothing_to_cut(tmp_path: Path) -> None:
    assert cut_back(tmp_path / "nowhere", 5) == 0
