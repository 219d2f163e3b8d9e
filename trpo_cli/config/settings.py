"""The keys at the root of a configuration, and their roles when a run is resumed, compared or named.

Their defaults and the text of `--help` are in `conf/train.yaml`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypedDict, get_type_hints

from trpo_cli.errors import ConfigError
from trpo_cli.ranges import Count, Finite, NonNegativeInt, Seconds, Threads

BY_DEFAULT = 10  # evaluations per run
EVAL, TRAIN = "eval", "train"  # by which return the best checkpoint is chosen


class Meaning(TypedDict):
    """The roles of a key."""

    may_change: bool  # on a resume, since parameters depend on it at most through the length of the run
    decides: bool  # what is learned, and so which runs compare; False also if runs are distinguished in another way
    names: bool  # a job of a sweep, even if all jobs have the same value


def key(*, may_change: bool = False, decides: bool = True, names: bool = True) -> Meaning:
    """Describe the roles of a key; one that may change names no job."""
    return Meaning(may_change=may_change, decides=decides, names=names and not may_change)


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings of the evaluations during training."""

    every: NonNegativeInt | Literal["auto"]  # environment steps; 0 for none
    episodes: Count
    max_episode_steps: Count

    def interval(self, total_steps: int) -> int:
        """Return the environment steps between evaluations in a run of `total_steps`; 0 means none."""
        return max(1, total_steps // BY_DEFAULT) if self.every == "auto" else self.every


@dataclass(frozen=True)
class CheckpointSettings:
    """Settings of the files under `checkpoints/`."""

    every: Count  # iterations
    keep: Count
    best: Literal["eval", "train"] | None = None


@dataclass(frozen=True)
class StopSettings:
    """When a run ends before `total_steps`."""

    at_return: Finite | None = None
    patience: Count | None = None  # evaluations


@dataclass(frozen=True)
class InitSettings:
    """What is taken from the run in `init_from`; `auto` takes what fits."""

    checkpoint: Literal["newest", "best"] | NonNegativeInt = "newest"
    policy: Literal["auto"] | bool = True
    critic: Literal["auto"] | bool = "auto"
    statistics: Literal["auto"] | bool = "auto"


@dataclass(frozen=True)
class Settings:
    """The root of the configuration, without the parts."""

    seed: NonNegativeInt = field(metadata=key(decides=False))
    total_steps: Count = field(metadata=key(may_change=True))
    device: str = field(metadata=key(decides=False))
    update_threads: Threads | None = field(metadata=key(may_change=True, decides=False))
    plugins: list[str] = field(metadata=key(decides=False, names=False))
    eval: EvaluationSettings = field(metadata=key(may_change=True, decides=False))
    checkpoint: CheckpointSettings = field(metadata=key(may_change=True, decides=False))
    fault_patience: NonNegativeInt = field(metadata=key(may_change=True, decides=False))
    shards: Count = field(default=1, metadata=key())
    rank_timeout: Seconds = field(default=600.0, metadata=key(may_change=True, decides=False))
    stop: StopSettings = field(default=StopSettings(), metadata=key(may_change=True))
    init_from: str | None = field(default=None, metadata=key())
    init: InitSettings = field(default=InitSettings(), metadata=key())

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a key that another one leaves without effect."""
        if not self.evaluation_interval:
            needy = {"checkpoint.best=eval": self.checkpoint.best == EVAL, "stop.patience": self.stop.patience}
            for name in filter(needy.get, needy):
                raise ConfigError(f"{name}: needs evaluations, and eval.every=0 turns them off")
        if self.init_from is None:
            for one in fields(InitSettings):
                if getattr(self.init, one.name) != one.default:
                    raise ConfigError(f"init.{one.name}: takes effect only with init_from=RUN")
        elif not (self.init.policy or self.init.critic or self.init.statistics):
            raise ConfigError("init: nothing would be taken from init_from; leave that out, or take the policy")

    @property
    def evaluation_interval(self) -> int:
        """Environment steps between evaluations; 0 means none."""
        return self.eval.interval(self.total_steps)


OF_THE_COMMAND = ("resume", "sweep")
"""Keys at the root that are not saved with a run."""
ROOT_KEYS = (*(one.name for one in fields(Settings)), *OF_THE_COMMAND)
_OTHERS = {  # keys of parts, whose classes are not imported here, and nodes that are not settings
    "algo.max_rejected": key(may_change=True),
    "env.log_info": key(decides=False),
    "env.step_timeout": key(may_change=True, decides=False),
    "sampler.num_threads": key(may_change=True, decides=False),
    "sampler.vectorization": key(decides=False),
    "logger": key(may_change=True, decides=False),
    "choices.logger": key(may_change=True, decides=False),
    "choices.": key(decides=False),  # the option of each group
    "experiment": key(names=False),  # its settings are under other keys
    "resume": key(decides=False, names=False),
    "sweep.": key(decides=False, names=False),
    "hydra": key(names=False),
}


def _list_meanings() -> Iterator[tuple[str, Any]]:
    """Yield prefixes of keys with their meanings."""
    types = get_type_hints(Settings)
    for one in fields(Settings):
        yield f"{one.name}." if is_dataclass(types[one.name]) else one.name, one.metadata
    yield from _OTHERS.items()


MEANINGS = dict(_list_meanings())
MAY_CHANGE = tuple(name for name, meaning in MEANINGS.items() if meaning["may_change"])
INDIFFERENT = tuple(name for name, meaning in MEANINGS.items() if not meaning["decides"])
NAMELESS = tuple(name for name, meaning in MEANINGS.items() if not meaning["names"])
"""Prefixes of the keys that may change, that do not decide what is learned, and that name no job."""


def flatten(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every leaf of a configuration with its dotted key, such as `algo.delta` and 0.01."""
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from flatten(value, f"{path}.{name}" if path else str(name))
    else:
        yield path, node


def format_setting(value: Any) -> str:
    """Write a value as one types it: `null`, `true`, `0.02`, `[linear,0.9]`."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_format_inner, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{name}:{_format_inner(inner)}' for name, inner in value.items())}}}"
    return str(value)


def _format_inner(value: Any) -> str:
    """Write a value inside another, with quotes around text that would end it."""
    is_odd = isinstance(value, str) and (not value or re.search(r"[\s,'\"\[\]{}]", value))
    return repr(value) if is_odd else format_setting(value)


def _list_later_settings() -> Iterator[tuple[str, Any]]:
    """Yield keys at the root that earlier versions did not have, with their defaults."""
    for one in fields(Settings):
        if one.default is not MISSING:
            yield from flatten(asdict(one.default) if is_dataclass(one.default) else one.default, one.name)  # type: ignore[arg-type]


LATER: dict[str, Any] = {
    "algo.entropy_coefficient": 0.0,
    "env.wrappers": [],
    "env.rescale_action": "auto",
    "env.observe": None,
    "env.hide": None,
    "env.grey": False,
    "env.resize": None,
    "env.stack": 1,
    "env.sign_reward": False,
    "env.log_info": [],
    "sampler.sequence_length": None,
    "sampler.burn_in": 0,
    **dict(_list_later_settings()),
}
"""Keys that runs of earlier versions lack, with the defaults of `conf/`, by which such a run is compared with others.

What it does follows from the defaults of the classes, which mean what those versions did.
"""


def select_decisive(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return every setting that is not `INDIFFERENT`, by its dotted key."""
    return {name: value for name, value in flatten(dict(config)) if not name.startswith(INDIFFERENT)}
