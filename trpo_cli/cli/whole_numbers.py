"""Whole numbers may be written as 1e6 or 2048.0 wherever a key takes one.

Values are converted after they are composed, and overrides before anything is named after them. So a run has the same
configuration and directory however its numbers were written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf

from trpo_cli.cli.command_line import CommandLine
from trpo_cli.cli.resume import read_resume
from trpo_cli.cli.search_path import compose_options
from trpo_cli.config.build import as_whole, get_hints, is_whole, locate
from trpo_cli.config.composed import Node
from trpo_cli.config.settings import Settings
from trpo_cli.errors import ConfigError
from trpo_cli.run.layout import CONFIG, read_config

ROOT = get_type_hints(Settings, include_extras=True)
NUMBER = re.compile(r"(?<![\w.'\"])[-+]?\d[\d_]*(\.\d*)?(e[-+]?\d+)?(?![\w.'\"])", re.IGNORECASE)


def convert_whole_numbers(node: Node) -> Node:
    """Convert values of a resolved configuration to whole numbers, where the key takes one and the value is whole."""
    plugins = node.get("plugins") or []
    return {**node, **_convert(node, ROOT, plugins)}


def _convert(node: Mapping[str, Any], annotations: Mapping[str, Any], plugins: Sequence[str]) -> Node:
    return {
        key: _convert(value, _find_annotations(value, annotations.get(key), plugins), plugins)
        if isinstance(value, Mapping)
        else as_whole(value, annotations.get(key))
        for key, value in node.items()
    }


def _find_annotations(node: Mapping[str, Any], annotation: Any, plugins: Sequence[str]) -> Mapping[str, Any]:
    """Return the type hints of the keys of a part, or of a dataclass."""
    if is_dataclass(annotation):
        return get_type_hints(annotation, include_extras=True)
    try:
        return get_hints(locate(node["_target_"], "", plugins)) if "_target_" in node else {}
    except ConfigError:  # reported when the part is built
        return {}


def write_whole_numbers(overrides: Sequence[str], typed: CommandLine) -> list[str]:
    """Rewrite the overrides of a command line so that 1e6 reads 1000000 where a key takes a whole number."""
    if not any(_has_whole_number(text) for text in overrides):
        return list(overrides)
    resume = read_resume(overrides)
    if resume and (Path(resume) / CONFIG).is_file():
        return rewrite_overrides(overrides, read_config(Path(resume)))
    node: Any = OmegaConf.to_container(compose_options(typed) or DictConfig({}))
    return rewrite_overrides(overrides, node)


def rewrite_overrides(overrides: Sequence[str], node: Node) -> list[str]:
    """Rewrite overrides, including those of sweeps, for the keys of this configuration."""
    return [_rewrite_override(text, node) if _has_whole_number(text) else text for text in overrides]


def _has_whole_number(text: str) -> bool:
    """Whether the value contains a whole number that is written as a float."""
    value = text.partition("=")[2]
    return NUMBER.sub(_rewrite_number, value) != value


def _rewrite_override(text: str, node: Any) -> str:
    key, equals, value = text.partition("=")
    *path, name = key.lstrip("+").split(".")
    annotations: Mapping[str, Any] = ROOT
    for step in path:
        node = node.get(step) if isinstance(node, Mapping) else None
        annotations = _find_annotations(node or {}, annotations.get(step), ())
    return f"{key}{equals}{NUMBER.sub(_rewrite_number, value)}" if is_whole(annotations.get(name)) else text


def _rewrite_number(found: re.Match[str]) -> str:
    number = found[0].replace("_", "")
    return str(as_whole(float(number), int)) if (found[1] or found[2]) and float(number).is_integer() else found[0]
