"""Parts that have moved. Saved runs and configurations of users may still name their former modules."""

from __future__ import annotations

from typing import Any

MOVED = {
    "trpo_cli.critics": "trpo_cli.models.critics",
    "trpo_cli.policies": "trpo_cli.models.policies",
    "trpo_cli.trackers": "trpo_cli.run.trackers",
}


def update_target(target: str) -> str:
    """Return the current dotted name of `target`."""
    for old, new in MOVED.items():
        if target.startswith(f"{old}."):
            return new + target.removeprefix(old)
    return target


def update_targets(node: Any) -> Any:
    """Return a configuration, or a part of one, with the current name of every `_target_`."""
    if isinstance(node, dict):
        return {
            key: update_target(value) if key == "_target_" and isinstance(value, str) else update_targets(value)
            for key, value in node.items()
        }
    return [update_targets(value) for value in node] if isinstance(node, list) else node
