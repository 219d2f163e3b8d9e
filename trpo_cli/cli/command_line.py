"""The command line of trpo-train: options, which begin with dashes, and overrides, in any order.

Hydra parses it again. We read it first, to report mistakes in our own words.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from os.path import expanduser
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser

from trpo_cli import __version__
from trpo_cli.config.groups import GROUPS, PART_GROUPS, choices, roots
from trpo_cli.config.settings import ROOT_KEYS
from trpo_cli.errors import ConfigError, UnknownNameError, UserError, did_you_mean

OPEN = "env.kwargs"  # a mapping whose keys are the environment's own
PLACES = ("hydra.run.dir=", "hydra.sweep.dir=", "sweep.resume=")
SHELLS = ("bash", "zsh", "fish")


class CommandLine(NamedTuple):
    """What was typed, taken apart."""

    options: list[str]  # as they were typed, with their values
    overrides: list[str]
    config_dir: str | None
    multirun: bool
    help: bool
    version: bool
    install_completion: str | None  # a shell, or "" for the one that is in use
    show_completion: str | None
    complete: str | None  # a line to complete


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `UserError` and accepts no abbreviations."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        if cut := re.match(r"argument (--\S+)/.*: ignored explicit argument", message):  # -help is -h with something
            raise UserError(f"an option of several letters has two dashes; did you mean '{cut[1]}'?")
        if "required: RUN" in message and "--plugins" in sys.argv:
            message += "; --plugins takes all that follows it, so RUN stands before it"
        unknown = message.partition("unrecognized arguments: ")[2].split()
        option = unknown[0].partition("=")[0] if unknown else ""
        hint = self.nearest(option) if option.startswith("-") else ""
        raise UserError(f"{message}{hint}\n{self.prog} --help lists what there is")

    def add_version(self) -> None:
        """Add `--version`, which prints the version and exits."""
        self.add_argument("--version", action="version", version=f"trpo-cli {__version__}")

    def nearest(self, option: str) -> str:
        """Suggest the option with the nearest name, ignoring dashes."""
        known = [text.lstrip("-") for action in self._actions for text in action.option_strings if text[:2] == "--"]
        return did_you_mean(option.lstrip("-"), known).replace("'", "'--", 1)


def parser() -> Parser:
    """Hydra's options, and ours."""
    parser = Parser(prog="trpo-train", parents=[get_args_parser()], add_help=False, conflict_handler="resolve")
    parser.add_argument("--version", action="store_true")
    parser.add_argument("--install-completion", nargs="?", const="", choices=(*SHELLS, ""))
    parser.add_argument("--show-completion", nargs="?", const="", choices=(*SHELLS, ""))
    parser.add_argument("--complete", help=argparse.SUPPRESS)
    return parser


OPTIONS = [text for action in parser()._actions for text in action.option_strings]


def read(arguments: Sequence[str]) -> CommandLine:
    """Parse a command line. Raises `UserError` for an option that does not exist, or lacks its value."""
    parsing = parser()
    found, unknown = parsing.parse_known_intermixed_args(list(arguments))
    if unknown:
        value = next(iter(arguments[list(arguments).index(unknown[0]) + 1 :]), "VALUE")
        _refuse_option(unknown[0], value, parsing)
    words, options = list(found.overrides), []
    for text in arguments:
        if words and text == words[0]:
            words.pop(0)
        else:
            options.append(text)
    if found.experimental_rerun:
        raise UserError("--experimental-rerun: is of Hydra's own; resume=DIR goes on with a run")
    if found.resolve and not found.cfg:
        raise UserError("--resolve: goes with --cfg job")
    if found.config_path or found.config_name:
        raise UserError("--config-path, --config-name: there is one configuration; --config-dir DIR adds options to it")
    wanted = {name: getattr(found, name) for name in CommandLine._fields if name not in ("options", "overrides")}
    return CommandLine(options, list(found.overrides), **wanted)


def _refuse_option(text: str, following: str, parsing: Parser) -> NoReturn:
    """Raise for an unknown option, which may be an override typed with dashes."""
    option, equals, value = text.partition("=")
    name = option.lstrip("-").replace("-", "_")
    value = value if equals else following if not following.startswith("-") and "=" not in following else "VALUE"
    known = name in (*GROUPS, *ROOT_KEYS) or "." in name or "/" in name
    if known or (value != "VALUE" and not parsing.nearest(option)):
        raise ConfigError(f"{text}: keys and groups take no dashes; say {name}={value}")
    parsing.error(f"unrecognized arguments: {text}")


def path(text: str) -> Path:
    """An argparse type: a path that is not empty."""
    if not text:
        raise argparse.ArgumentTypeError("is empty")
    return Path(text)


def check_overrides(overrides: Sequence[str], config_dir: str | None = None) -> None:
    """Raise `ConfigError` for malformed overrides, and for options outside the directories of configuration."""
    for i, text in enumerate(overrides):
        key, equals, value = text.partition("=")
        if not equals and not text.startswith("~"):
            raise _no_override(text, overrides[:i], overrides[i + 1 : i + 3], config_dir)
        if not key.strip("+~ "):
            raise ConfigError(f"'{text}': there is no key before '='; KEY=VALUE and GROUP=OPTION stand without spaces")
        if value.startswith("="):
            raise ConfigError(f"'{text}': '=' stands there twice; say {key}={value.lstrip('=')}")
        if key.startswith("+") and key.lstrip("+").partition("/")[0] in GROUPS:
            raise ConfigError(f"{key.lstrip('+')}: is chosen twice; a group takes no + before it")
        if _names_an_option(key) and _climbs(text):
            raise ConfigError(
                f"'{text}': an option is a name, without '..'; --config-dir DIR adds a directory of options"
            )
        if key.lstrip("~") in PART_GROUPS and (text.startswith("~") or value.lower() == "null"):
            raise ConfigError(
                f"{key.lstrip('~')}: every run has one; only the groups experiment and logger can be empty"
            )
        if key.lstrip("+").partition("/")[0] in (*GROUPS, "hydra") and "." not in key and value.startswith(("[", "{")):
            raise ConfigError(f"'{text}': a group takes the name of one of its options; -m and commas run several")
        if key.lstrip("+") == "plugins" and re.fullmatch(r"[\w.]+", value):
            raise ConfigError(f"plugins: got '{value}'; it should be a valid list, [{value}]")
        if text in PLACES:
            raise ConfigError(f"{key}: is empty; it takes a directory")
        if text.startswith(PLACES) and Path(value).is_file():
            raise ConfigError(f"{key}: {value} is a file, and this takes a directory")
        if value.startswith("~/"):
            raise ConfigError(
                f"'{text}': a shell leaves this ~ alone; say {shlex.quote(key + equals + expanduser(value))}"
            )


def read_list(key: str, overrides: Sequence[str]) -> list[str]:
    """Return the list that the overrides give for a key; empty if they give none."""
    words = [text for text in overrides if text.lstrip("+").startswith(f"{key}=")]
    value: Any = OverridesParser.create().parse_override(words[-1]).value() if words else []
    return [str(item) for item in value] if isinstance(value, list) else []


def _names_an_option(key: str) -> bool:
    return "/" in key or "@" in key or ("." not in key and key.lstrip("+") not in ROOT_KEYS)


def _climbs(text: str) -> bool:
    """Whether any path in the text has a component `..`."""
    plain = text
    for separator in "=,@+[]'\" ":
        plain = plain.replace(separator, "/")
    return ".." in plain.split("/")


def _no_override(text: str, before: Sequence[str], following: Sequence[str], config_dir: str | None) -> ConfigError:
    """Explain a word without `=`: an option without its group, or an override with spaces in it."""
    if following and following[0].startswith("="):
        value = following[0].lstrip("=") or "".join(following[1:])
        return ConfigError(f"'{text}': an override has no spaces around '='; say {text}={value or 'VALUE'}")
    if text in (*GROUPS, *ROOT_KEYS):
        value = following[0] if following and "=" not in following[0] else "VALUE"
        return ConfigError(f"'{text}': '=' stands between a name and its value; say {text}={value}")
    if before and (before[-1].endswith(",") or before[-1].count("[") > before[-1].count("]")):
        comma = "" if before[-1].endswith((",", "[")) else ","
        return ConfigError(f"'{text}': values are listed without spaces; say {before[-1]}{comma}{text}")
    if f"--{text}" in OPTIONS:
        return UnknownNameError(
            f"'{text}' is no override: these are GROUP=OPTION and KEY=VALUE; did you mean --{text}?"
        )
    if ":" in text:
        key, _, value = text.partition(":")
        return ConfigError(f"'{text}': a value stands behind '='; say {key}={value.strip()}")
    known = {f"{group}={name}": name for group in GROUPS for name in list_options(group, roots(config_dir))}
    close = [said for said, name in known.items() if text.lower() in (name.lower(), name.lower().rpartition("-v")[0])]
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return UnknownNameError(f"'{text}' is no override: these are GROUP=OPTION and KEY=VALUE{hint}")


def list_options(group: str, places: Sequence[Path]) -> list[str]:
    """The options of a group; those of `env` include every registered id, for which Gymnasium is imported."""
    if group != "env":
        return choices(group, places)
    from trpo_cli.envs.registered import registered_ids

    return sorted({*choices(group, places), *registered_ids()})


def allow_new_keys(overrides: Sequence[str]) -> list[str]:
    """Let overrides of `env.kwargs` add keys, for which Hydra wants `++`."""
    return [f"++{text}" if text.startswith((f"{OPEN}=", f"{OPEN}.")) else text for text in overrides]
