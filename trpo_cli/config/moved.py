"""What has another name now. Saved runs and configurations of users may still use the former one."""

from __future__ import annotations

from typing import Any

MOVED = {
    "trpo_cli.critics": "trpo_cli.models.critics",
    "trpo_cli.policies": "trpo_cli.models.policies",
    "trpo_cli.trackers": "trpo_cli.run.trackers",
}
DECAYS = {"delta_decay": "delta", "learning_rate_decay": "learning_rate"}
"""Former key of a part -> the key whose `schedule` it was."""
FORMER = {"none": "constant"}
"""Former name of a schedule's shape -> its name."""


def update_target(target: str) -> str:
    """Return the current dotted name of `target`."""
    for old, new in MOVED.items():
        if target.startswith(f"{old}."):
            return new + target.removeprefix(old)
    return target


def explain_move(key: str, above: str) -> str:
    """Say where the former key of a part `above` has gone, to be appended to a message."""
    return f"; it is {above}schedule.{DECAYS[key]} now"


def update(node: Any) -> Any:
    """Return a configuration, or a part of one, with the current name of everything in it."""
    if isinstance(node, list):
        return [update(value) for value in node]
    if not isinstance(node, dict):
        return node
    updated = {key: update(value) for key, value in node.items() if key not in DECAYS}
    if isinstance(target := updated.get("_target_"), str):
        updated["_target_"] = update_target(target)
        if decays := {DECAYS[key]: FORMER.get(shape, shape) for key, shape in node.items() if key in DECAYS}:
            updated["schedule"] = decays
    return updated
