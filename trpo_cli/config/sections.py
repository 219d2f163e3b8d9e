"""Sections of an option's YAML: settings that apply only with certain other choices.

    algo=trpo,npg sampler=single_path:
      algo:
        delta: 0.1

The title of a section names choices as they are typed on a command line; `*` matches any characters, and `?` any single
one. Its settings are written from the root. They apply if every group in the title has one of the named options. Later
sections override earlier ones, and those of the options that this one builds on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from trpo_cli.config.groups import GROUPS, list_choices, list_parts
from trpo_cli.errors import suggest_name

WHERE = " where "
"""Separates the path of an option from the choices that select sections: `tuned/Ant-v4 where algo=trpo`."""

OF_MANY = ("env/gym", "env/atari", "env/minatar", "env/popgym")
"""The options that stand behind many environments."""


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


def find_mistake(name: str, content: Mapping[Any, Any], places: Sequence[Path]) -> tuple[str, str] | None:
    """Find the first mistaken section of option `name`, or key where only sections may be, and say what is wrong.

    Titles may name the options in these places; without places, any. Returns None if there is no mistake.
    """
    for key, body in content.items():
        if problem := _check_section(name, key, body, places) if is_title(key) else _check_plain(name, key, body):
            return key, problem
    return None


def _check_section(name: str, title: str, body: Any, places: Sequence[Path]) -> str:
    if not _may_have_sections(name):
        return (
            f"only options of algo and experiment, {', '.join(f'{name}.yaml' for name in OF_MANY)} and tuned/TASK.yaml "
            "have sections; write one there"
        )
    for group, options in parse_title(title).items():
        if group.partition("/")[0] not in GROUPS or not all(options):
            return "the title of a section is one or more GROUP=OPTION,OPTION"
        if places and (problem := _check_names(group, options, places)):
            return problem
    if not isinstance(body, Mapping) or "defaults" in body:
        return "a section holds settings, KEY: VALUE, and chooses no options"
    return ""


def _may_have_sections(name: str) -> bool:
    group, _, option = name.partition("/")
    return group in ("experiment", "tuned") or name in OF_MANY or (group == "algo" and "/" not in option)


def _check_names(group: str, names: Sequence[str], places: Sequence[Path]) -> str:
    if group == "env":  # any registered id will do, and importing Gymnasium is slow
        return ""
    if group not in (groups := [*GROUPS, *list_parts(places)]):
        return f"{group}: no such group{suggest_name(group, groups)}"
    known = list_choices(group, places)
    strange = [name for name in names if not any(fnmatchcase(option, name) for option in known)]
    return f"{group}: no option '{strange[0]}'{suggest_name(strange[0], known)}" if strange else ""


def _check_plain(name: str, key: str, body: Any) -> str:
    if not name.startswith("tuned/"):
        return ""
    if key != "defaults":
        return "tuned settings depend on the method; write them under a section such as algo=trpo:"
    return "" if all(isinstance(base, str) for base in body) else "tuned settings choose no options of groups"


def parse_title(title: str) -> dict[str, list[str]]:
    """Return the groups that a title names, and the options of each: `algo=trpo,npg sampler=vine`."""
    words = (word.partition("=") for word in title.split())
    return {group: names.split(",") for group, _, names in words}


def _holds(title: str, chosen: Mapping[str, str]) -> bool:
    return all(
        any(fnmatchcase(chosen.get(group, ""), name) for name in names) for group, names in parse_title(title).items()
    )
