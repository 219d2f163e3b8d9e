"""The keys at the root of a configuration, and what each key means to a run that is resumed, compared or named.

Defaults and what `--help` says of a key are in `conf/train.yaml`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypedDict, get_type_hints

from trpo_cli.ranges import Count, NonNegativeInt, Threads

BY_DEFAULT = 10  # evaluations of a run


class Meaning(TypedDict):
    """What a key means to a run."""

    may_change: bool  # when the run is resumed: no parameter depends on it but through how long the run is
    decides: bool  # what is learned, and so what may be compared; False also where that is told apart otherwise
    names: bool  # a job of a sweep, even where all jobs agree in it


def key(*, may_change: bool = False, decides: bool = True, names: bool = True) -> Meaning:
    """The meaning of a key; one that may change names no job."""
    return Meaning(may_change=may_change, decides=decides, names=names and not may_change)


@dataclass(frozen=True)
class EvaluationSettings:
    """Of the evaluations during training."""

    every: NonNegativeInt | Literal["auto"]  # environment steps; 0 for none
    episodes: Count
    max_episode_steps: Count

    def interval(self, total_steps: int) -> int:
        """Environment steps from one to the next in a run of `total_steps`; 0 for none."""
        return max(1, total_steps // BY_DEFAULT) if self.every == "auto" else self.every


@dataclass(frozen=True)
class CheckpointSettings:
    """Of the files under `checkpoints/`."""

    every: Count  # iterations
    keep: Count


@dataclass(frozen=True)
class Settings:
    """The root of the configuration, but for the parts."""

    seed: NonNegativeInt = field(metadata=key(decides=False))
    total_steps: Count = field(metadata=key(may_change=True))
    device: str = field(metadata=key(decides=False))
    update_threads: Threads = field(metadata=key(decides=False))
    plugins: list[str] = field(metadata=key(decides=False, names=False))
    eval: EvaluationSettings = field(metadata=key(may_change=True, decides=False))
    checkpoint: CheckpointSettings = field(metadata=key(may_change=True, decides=False))
    fault_patience: NonNegativeInt = field(metadata=key(may_change=True, decides=False))


OF_THE_COMMAND = ("resume", "sweep")
"""Keys at the root that a run does not keep."""
ROOT_KEYS = (*(one.name for one in fields(Settings)), *OF_THE_COMMAND)
_OTHERS = {  # keys of parts, whose classes are not imported for this, and what is no setting
    "algo.max_rejected": key(may_change=True),
    "env.step_timeout": key(may_change=True, decides=False),
    "sampler.num_threads": key(may_change=True, decides=False),
    "sampler.vectorization": key(decides=False),
    "logger": key(may_change=True, decides=False),
    "choices.logger": key(may_change=True, decides=False),
    "choices.": key(decides=False),  # the option of each group
    "experiment": key(names=False),  # what it sets is in the other keys
    "resume": key(decides=False, names=False),
    "sweep.": key(decides=False, names=False),
    "hydra": key(names=False),
}


def _meanings() -> Iterator[tuple[str, Any]]:
    """Yield prefixes of keys with their meanings."""
    types = get_type_hints(Settings)
    for one in fields(Settings):
        yield f"{one.name}." if is_dataclass(types[one.name]) else one.name, one.metadata
    yield from _OTHERS.items()


MEANINGS = dict(_meanings())
MAY_CHANGE = tuple(name for name, meaning in MEANINGS.items() if meaning["may_change"])
INDIFFERENT = tuple(name for name, meaning in MEANINGS.items() if not meaning["decides"])
NAMELESS = tuple(name for name, meaning in MEANINGS.items() if not meaning["names"])
"""Prefixes of the keys that may change, that decide nothing, and that name no job."""


def flat(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """`algo.delta`, 0.01 and the like, for every leaf of a configuration."""
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from flat(value, f"{path}.{name}" if path else str(name))
    else:
        yield path, node


def decisive(config: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting but those that are `INDIFFERENT`, by its flat key."""
    return {name: value for name, value in flat(dict(config)) if not name.startswith(INDIFFERENT)}
