"""Whether two run directories hold the same run."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from exactness import exactly
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trpo_cli.run import checkpoint

BY_THE_CLOCK = ("seconds", "metrics_bytes", "git_revision")  # times, and the size of a file that holds them


def saved(directory: Path, chosen: str = "newest") -> dict[str, Any]:
    """The chosen checkpoint, without what may differ between two runs of one configuration."""
    state = checkpoint.load_chosen(directory / "checkpoints", chosen).state
    state["progress"] = {key: value for key, value in state["progress"].items() if key not in BY_THE_CLOCK}
    return {key: value for key, value in state.items() if key not in BY_THE_CLOCK}


def rows(directory: Path) -> list[dict[str, str]]:
    """`metrics.csv` without times."""
    with (directory / "metrics.csv").open() as file:
        return [{key: cell for key, cell in row.items() if not key.startswith("time/")} for row in csv.DictReader(file)]


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard's, without times: exactly what is in the files, orphans and duplicates included."""
    events = EventAccumulator(str(directory / "tensorboard"), {"scalars": 0}, purge_orphaned_data=False).Reload()
    tags = [tag for tag in sorted(events.Tags()["scalars"]) if not tag.startswith("time/")]
    # by step: files of the same second are read in any order
    return {tag: sorted((event.step, event.value) for event in events.Scalars(tag)) for tag in tags}


def assert_same_run(one: Path, other: Path) -> None:
    """Raise `AssertionError` unless the runs in two directories are equal, bit for bit."""
    bests = [(place / "checkpoints" / "best").is_dir() for place in (one, other)]
    assert bests[0] == bests[1], "only one of them kept its best checkpoint"
    for chosen in ("newest", "best")[: 1 + all(bests)]:
        first, second = saved(one, chosen), saved(other, chosen)
        for name in first.keys() | second.keys():
            assert exactly(first.get(name), second.get(name)), f"{name} of the {chosen} checkpoint differs"
    assert rows(one) == rows(other), "metrics.csv differs"
    assert str(scalars(one)) == str(scalars(other)), "TensorBoard differs"  # as text: nan is nan
    assert len(scalars(one)["policy/entropy" if "policy/entropy" in scalars(one) else "trust_region/outcome"]) == len(
        rows(one)
    ), "TensorBoard has not a point a row"
