"""Sections of an option's YAML: settings that apply only with certain other choices.

    algo=trpo,npg sampler=single_path:
      algo:
        delta: 0.1

The title of a section names choices as they are typed on a command line; `*` matches any characters, and `?` any single
one. Its settings are written from the root. They apply if every group in the title has one of the named options. Later
sections override earlier ones, and those of the options that this one builds on.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from omegaconf import DictConfig, OmegaConf

from trpo_cli.config.groups import GROUPS

WHERE = " where "
"""Separates the path of an option from the choices that select sections: `tuned/Ant-v4 where algo=trpo`."""


def drop_sections(content: Mapping[Any, Any]) -> DictConfig:
    """Return what an option sets with any other choices."""
    return OmegaConf.create({key: value for key, value in content.items() if not is_title(key)})


def select_sections(content: Mapping[Any, Any], choices: str) -> DictConfig:
    """Merge the sections of an option that apply with `choices`, written `algo=trpo sampler=vine`."""
    chosen = dict(word.split("=", 1) for word in choices.split() if "=" in word)
    found = [body for title, body in content.items() if is_title(title) and _holds(title, chosen)]
    merged = OmegaConf.merge({}, *found)
    assert isinstance(merged, DictConfig)
    return merged


def find_bases(content: Mapping[Any, Any]) -> list[str]:
    """List the options that an option builds on, by name or path; its other defaults choose options of groups."""
    names = [name.partition("@")[0] for name in content.get("defaults", []) if isinstance(name, str)]
    return [name for name in names if name != "_self_"]


def is_title(key: Any) -> bool:
    """Whether a key of an option's YAML begins a section."""
    return "=" in str(key)


def check_sections(content: Mapping[Any, Any]) -> None:
    """Raise `ValueError` if a section has an invalid title, or contains anything but settings."""
    for title, body in content.items():
        if not is_title(title):
            continue
        for group, names in parse_title(title).items():
            if group.partition("/")[0] not in GROUPS or not all(names):
                raise ValueError(f"'{title}': the title of a section is one or more GROUP=OPTION,OPTION")
        if not isinstance(body, Mapping) or "defaults" in body:
            raise ValueError(f"'{title}': a section holds settings, KEY: VALUE, and chooses no options")


def parse_title(title: str) -> dict[str, list[str]]:
    """Return the groups that a title names, and the options of each: `algo=trpo,npg sampler=vine`."""
    words = (word.partition("=") for word in title.split())
    return {group: names.split(",") for group, _, names in words}


def _holds(title: str, chosen: Mapping[str, str]) -> bool:
    return all(
        any(fnmatchcase(chosen.get(group, ""), name) for name in names) for group, names in parse_title(title).items()
    )
