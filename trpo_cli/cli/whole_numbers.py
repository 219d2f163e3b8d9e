"""Whole numbers written as 1e6 or 2048.0 are taken as whole numbers wherever a key wants one.

Values are converted where they are composed, and words of the command line before anything is named after them, so
that a run has the same configuration and directory however its numbers were written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf

from trpo_cli.cli.command_line import CommandLine
from trpo_cli.cli.resume import resumed_run
from trpo_cli.cli.search_path import sketched
from trpo_cli.config.build import as_whole, hints, is_whole, locate
from trpo_cli.config.composed import Node
from trpo_cli.errors import ConfigError
from trpo_cli.parts import Settings
from trpo_cli.run.layout import CONFIG, read_config

ROOT = get_type_hints(Settings, include_extras=True)
NUMBER = re.compile(r"(?<![\w.'\"])[-+]?\d[\d_]*(\.\d*)?(e[-+]?\d+)?(?![\w.'\"])", re.IGNORECASE)


def with_whole_numbers(node: Node) -> Node:
    """A resolved configuration, in which every key that wants a whole number has one if its value allows it."""
    plugins = node.get("plugins") or []
    return {**node, **_converted(node, ROOT, plugins)}


def _converted(node: Mapping[str, Any], annotations: Mapping[str, Any], plugins: Sequence[str]) -> Node:
    return {
        key: _converted(value, _annotations(value, annotations.get(key), plugins), plugins)
        if isinstance(value, Mapping)
        else as_whole(value, annotations.get(key))
        for key, value in node.items()
    }


def _annotations(node: Mapping[str, Any], annotation: Any, plugins: Sequence[str]) -> Mapping[str, Any]:
    """What the keys of a part, or of a dataclass, take."""
    if is_dataclass(annotation):
        return get_type_hints(annotation, include_extras=True)
    try:
        return hints(locate(node["_target_"], "", plugins)) if "_target_" in node else {}
    except ConfigError:  # building it says so
        return {}


def plainly(overrides: Sequence[str], said: CommandLine) -> list[str]:
    """The overrides of a command line, whole numbers being written as such where its keys want them."""
    if not any(_has_one(text) for text in overrides):
        return list(overrides)
    resume = resumed_run(overrides)
    if resume and (Path(resume) / CONFIG).is_file():
        return in_words(overrides, read_config(Path(resume)))
    sketch: Any = OmegaConf.to_container(sketched(said) or DictConfig({}))
    return in_words(overrides, sketch)


def in_words(overrides: Sequence[str], node: Node) -> list[str]:
    """The overrides, with whole numbers where keys of the configuration want them, in sweeps as well."""
    return [_in_word(text, node) if _has_one(text) else text for text in overrides]


def _has_one(text: str) -> bool:
    """Whether a whole number in its value is written as another."""
    value = text.partition("=")[2]
    return NUMBER.sub(_written, value) != value


def _in_word(text: str, node: Any) -> str:
    key, equals, value = text.partition("=")
    *path, name = key.lstrip("+").split(".")
    annotations: Mapping[str, Any] = ROOT
    for step in path:
        node = node.get(step) if isinstance(node, Mapping) else None
        annotations = _annotations(node or {}, annotations.get(step), ())
    return f"{key}{equals}{NUMBER.sub(_written, value)}" if is_whole(annotations.get(name)) else text


def _written(found: re.Match[str]) -> str:
    number = found[0].replace("_", "")
    return str(as_whole(float(number), int)) if (found[1] or found[2]) and float(number).is_integer() else found[0]
