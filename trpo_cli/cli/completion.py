"""TAB completion: the candidates for the last word, and the scripts with which bash, zsh and fish request them.

Candidates come from the YAML files. torch is never imported, and Gymnasium only for the ids of environments.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trpo_cli.cli.command_line import SHELLS, CommandLine, list_options, read
from trpo_cli.cli.help import HELP
from trpo_cli.cli.search_path import search_everywhere
from trpo_cli.config.groups import CONF, GROUPS, OF_SWEEPS, find_roots, list_parts
from trpo_cli.config.settings import format_setting
from trpo_cli.errors import UserError

DIRECTORIES = ("resume=", "init_from=", "sweep.resume=", "hydra.run.dir=", "hydra.sweep.dir=")
OPTIONS = re.findall(r"^  (?:-\w, )?(--[a-z-]+)", HELP, re.MULTILINE)


def list_candidates(line: str) -> list[str]:
    """List the completions of the last word of a line, such as `trpo-train algo=tr`; empty for an invalid line."""
    try:
        words = shlex.split(line)
        word = "" if line[-1:].isspace() else words.pop()
        typed = read(words[1:])
    except (ValueError, UserError):  # an open quote, or an option without its value
        return _list_directories("", line.split()[-1]) if line.split() else []
    if word.startswith("-"):
        found = list(OPTIONS)
    elif word.startswith(DIRECTORIES):
        key, equals, start = word.partition("=")
        before, comma, start = start.rpartition(",") if typed.multirun and key == "init_from" else ("", "", start)
        found = _list_directories(f"{key}{equals}{before}{comma}", start)
    else:
        found = _list_overrides(word, typed)
    return sorted(text for text in found if text.startswith(word))


def _list_overrides(word: str, typed: CommandLine) -> list[str]:
    """List groups with their options, and keys with their current values."""
    places = find_roots(typed.config_dir)
    known = (*GROUPS, *list_parts(places), *OF_SWEEPS)
    group, equals, value = word.partition("=")
    if equals and group in known:
        before, comma, _ = value.rpartition(",")  # a sweep lists several options
        return [f"{group}={before}{comma}{name}" for name in list_options(group, places)]
    keys = _list_keys(_compose(typed))
    if equals:
        return [f"{key}={shown}" for key, shown in keys.items() if key == group]
    depth = word.count(".")
    flat = [name for name in known if "/" not in name or "/" in word or (typed.multirun and name in OF_SWEEPS)]
    groups = [f"{name}=" for name in flat]
    below = {".".join(key.split(".")[: depth + 1]): key for key in keys}
    return [*groups, *(f"{start}=" if start in keys else f"{start}." for start in below)]


def _compose(typed: CommandLine) -> DictConfig:
    """Compose what was typed so far, or only the defaults if it does not compose."""
    with search_everywhere(typed), initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            return compose("train", [text for text in typed.overrides if "," not in text])
        except (HydraException, OmegaConfBaseException, ValueError):
            return compose("train")


def _list_keys(config: DictConfig) -> dict[str, str]:
    """Return every key with its value as text: `algo.delta`, `0.01`."""
    found: dict[str, str] = {}

    def walk(node: Any, path: str) -> None:
        for name, value in node.items():
            key = f"{path}{name}"
            if isinstance(value, Mapping) and value:
                walk(value, f"{key}.")
            elif name != "_target_":
                found[key] = format_setting(value)

    walk(OmegaConf.to_container(config), "")
    return found


def _list_directories(key: str, start: str) -> list[str]:
    folder = Path(os.path.expanduser(start if start.endswith("/") else os.path.dirname(start)))
    prefix = start if start.endswith("/") else start[: start.rfind("/") + 1]
    found = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return [text for name in found if (text := f"{key}{prefix}{name}/").startswith(f"{key}{start}")]


def read_script(shell: str) -> str:
    """Return the script for a shell. Raises `UserError` for an unknown shell."""
    return Path(__file__).with_name(f"completion.{_find_shell(shell)}").read_text(encoding="utf-8")


def install(shell: str) -> str:
    """Write the script where the shell reads it at startup, and return a report.

    fish reads a directory. bash and zsh read a file of the user, to which one line is added, once.
    """
    shell = _find_shell(shell)
    home = Path.home()
    if shell == "fish":
        place = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "fish" / "conf.d" / "trpo-cli.fish"
    else:
        place = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share") / "trpo-cli" / f"completion.{shell}"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(read_script(shell), encoding="utf-8")
    report = f"{shell}: written to {place}"
    if shell != "fish":
        start = Path(os.environ.get("ZDOTDIR") or home) / ".zshrc" if shell == "zsh" else home / ".bashrc"
        line = f". {shlex.quote(str(place))}"
        text = start.read_text(encoding="utf-8") if start.exists() else ""
        if line not in text.splitlines():
            start.write_text(f"{text.rstrip()}\n{line}\n".lstrip("\n"), encoding="utf-8")
        report += f", which {start} reads"
    return f"{report}\nit works in every {shell} started from now on"


def _find_shell(shell: str) -> str:
    """Return the name of the shell, by default the one in use."""
    name = shell or Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        raise UserError(f"completion: name the shell, --install-completion {'|'.join(SHELLS)}")
    return name
