"""The keys of a configuration that decide what is learned, flat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

INDIFFERENT = (
    "seed",
    "choices.",
    "plugins",
    "logger",
    "device",
    "update_threads",
    "eval.",
    "checkpoint.",
    "fault_patience",
    "env.step_timeout",
    "resume",
    "sampler.num_threads",
    "sampler.vectorization",
)
"""Keys, or how they begin, that decide nothing that is learned, or are told apart otherwise."""


def flat(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """`algo.delta`, 0.01 and the like, for every leaf of a configuration."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def decisive(config: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting but those that are `INDIFFERENT`, by its flat key."""
    return {key: value for key, value in flat(dict(config)) if not key.startswith(INDIFFERENT)}
