"""A thousand iterations cost no more memory, files or disk an iteration than the first did."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from conftest import Command, after_rows

PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    """Bytes of memory that this process has."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts what the system says of this process")
def test_nothing_grows(trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, int]] = []

    def look() -> None:
        (events,) = (tmp_path / "run" / "tensorboard").iterdir()
        seen.append(
            {
                "memory": resident(),
                "descriptors": len(os.listdir("/proc/self/fd")),
                "checkpoints": len(list((tmp_path / "run" / "checkpoints").iterdir())),
                "metrics": (tmp_path / "run" / "metrics.csv").stat().st_size,
                "events": events.stat().st_size,
            }
        )

    for row in (300, 600, 1000):
        after_rows(monkeypatch, row, look)
    small = ("sampler.num_envs=4", "sampler.steps_per_iteration=64", "eval.every=6400", "eval.episodes=2")
    done = trpo_train("env=CartPole-v1", "critic.epochs=1", *small, "total_steps=64_000", "hydra.run.dir=run")
    assert done.status == 0
    early, middle, late = seen
    assert late["memory"] - early["memory"] < 5e6
    assert late["descriptors"] <= early["descriptors"]  # those of other tests may go
    assert late["checkpoints"] == early["checkpoints"] == 3
    assert late["metrics"] / 1000 < 500
    assert late["events"] - middle["events"] < 400 * 2000
