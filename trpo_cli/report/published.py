"""Published numbers, which `--compare` shows beside those of the runs. `published.yaml` has them with their sources."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path

import yaml  # type: ignore[import-untyped]

NEAR = 1.05  # the largest ratio of two numbers of steps that count as equal
VERSION = re.compile(r"(NoFrameskip|Deterministic)?-v\d+$")  # and what the older ids of Atari say about a step


@dataclass(frozen=True)
class Published:
    """One number of one source."""

    source: str
    link: str
    seeds: int | None  # None if the source does not say
    measured: str  # the protocol
    steps: int | None
    algo: str
    value: float
    spread: float | None  # standard deviation over seeds
    kind: str  # of return: evaluation, training or unstated

    def describe(self) -> str:
        """`trpo of sb3-contrib, 3 seeds, 1,000,000 steps, a return of unstated kind`."""
        kind = {"evaluation": "an evaluation", "training": "a training return"}.get(
            self.kind, "a return of unstated kind"
        )
        return f"{self.algo} of {self.source}, {self.seeds} seeds, {self.steps or 0:,} steps, {kind}"

    def matches(self, algo: str, steps: float) -> bool:
        """Whether runs of an algorithm that took so many steps may be held against it.

        It has to be of the same algorithm and, within `NEAR`, the same number of steps, and of several seeds.
        """
        near = self.steps is not None and self.steps / NEAR <= steps <= self.steps * NEAR
        return self.algo == algo and near and (self.seeds or 1) > 1


def name_task(task: str) -> str:
    """`Hopper-v4` -> `Hopper`, `ALE/Pong-v5` and `PongNoFrameskip-v4` -> `Pong`, `Mine/Pong-v1` -> `Mine/Pong`.

    Numbers of other versions are close, and named as what they are. Another namespace has other tasks of the same name.
    """
    return VERSION.sub("", task.rpartition(":")[2].removeprefix("ALE/"))


def find_published(task: str) -> list[Published]:
    """Return every number for the task, whatever its version."""
    return _read_all().get(name_task(task), [])


@functools.cache
def _read_all() -> dict[str, list[Published]]:
    found: dict[str, list[Published]] = {}
    for source in yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")):
        about = source["source"], source["link"], source["seeds"], source["measured"], source["steps"]
        for algo, tasks in source["returns"].items():
            for task, numbers in tasks.items():
                value, spread = numbers if isinstance(numbers, list) else (numbers, None)
                found.setdefault(task, []).append(Published(*about, algo, value, spread, source["kind"]))
    return found
