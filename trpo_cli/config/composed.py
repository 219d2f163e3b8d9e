"""A configuration that Hydra composed, as plain values."""

from __future__ import annotations

from typing import Any

from hydra.conf import HydraConf
from omegaconf import DictConfig, OmegaConf, open_dict

Node = dict[str, Any]


def resolve(config: DictConfig, command: HydraConf | None = None) -> Node:
    """Return the resolved values and, under `choices`, the option of each group.

    `command` is Hydra's node, needed if `config` has none.
    """
    command = config.hydra if command is None else command
    choices = {
        group: option
        for group, option in command.runtime.choices.items()
        if not group.startswith("hydra/") and "@" not in group
    }
    plain = config.copy()
    with open_dict(plain):
        plain.pop("hydra", None)
    node: Any = OmegaConf.to_container(plain, resolve=True, throw_on_missing=True)
    return {"choices": choices, **node}
