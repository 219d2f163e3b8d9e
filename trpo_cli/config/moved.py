"""Parts that have moved: configurations from before, of runs and of users, name them where they were."""

from __future__ import annotations

from typing import Any

MOVED = {
    "trpo_cli.critics": "trpo_cli.models.critics",
    "trpo_cli.policies": "trpo_cli.models.policies",
    "trpo_cli.trackers": "trpo_cli.run.trackers",
}


def current_target(target: str) -> str:
    """The dotted name under which `target` is found today."""
    for old, new in MOVED.items():
        if target.startswith(f"{old}."):
            return new + target.removeprefix(old)
    return target


def with_current_targets(node: Any) -> Any:
    """A configuration, or a part of one, with every `_target_` as it is called today."""
    if isinstance(node, dict):
        return {
            key: current_target(value) if key == "_target_" and isinstance(value, str) else with_current_targets(value)
            for key, value in node.items()
        }
    return [with_current_targets(value) for value in node] if isinstance(node, list) else node
