"""The command line of trpo-train: options, which begin with dashes, and overrides, in any order.

Hydra parses it again later. Parsing it here first gives mistakes clear messages.
"""

from __future__ import annotations

import argparse
import contextlib
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
from trpo_cli.config.build import as_whole
from trpo_cli.config.groups import GROUPS, PART_GROUPS, find_roots, list_choices
from trpo_cli.config.settings import ROOT_KEYS
from trpo_cli.errors import ConfigError, UnknownNameError, UserError, did_you_mean
from trpo_cli.run.layout import BEST, NEWEST

OPEN = "env.kwargs"  # a mapping with any keys, which are passed to the environment
OPEN_SCHEDULES = re.compile(r"(algo|critic)(\.\w+)*\.schedule[.=]")  # of any number of these parts
PLACES = ("hydra.run.dir=", "hydra.sweep.dir=", "sweep.resume=")
SHELLS = ("bash", "zsh", "fish")


class CommandLine(NamedTuple):
    """A parsed command line."""

    options: list[str]  # as typed, with their values
    overrides: list[str]
    config_dir: str | None
    multirun: bool
    help: bool
    version: bool
    install_completion: str | None  # a shell, or "" for the one in use
    show_completion: str | None
    complete: str | None  # a line to complete


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `UserError` and accepts no abbreviations."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        if cut := re.match(
            r"argument (--\S+)/.*: ignored explicit argument", message
        ):  # argparse reads -help as -h with a value
            raise UserError(f"a long option begins with two dashes; did you mean '{cut[1]}'?")
        if "required: RUN" in message and "--plugins" in sys.argv:
            message += "; --plugins takes everything that follows it, so put RUN before it"
        unknown = message.partition("unrecognized arguments: ")[2].split()
        option = unknown[0].partition("=")[0] if unknown else ""
        hint = self.nearest(option) if option.startswith("-") else ""
        raise UserError(f"{message}{hint}\n{self.prog} --help lists all")

    def add_version(self) -> None:
        """Add `--version`, which prints the version and exits."""
        self.add_argument("--version", action="version", version=f"trpo-cli {__version__}")

    def add_run_options(self) -> None:
        """Add `--checkpoint` and `--plugins`, which say how runs are loaded."""
        which = "newest, best (of a run with checkpoint.best), or the steps of another (default: %(default)s)"
        allowed = "packages that RUN may be built from; after RUN"
        self.add_argument("--checkpoint", type=checkpoint, default=NEWEST, metavar="newest|best|STEP", help=which)
        self.add_argument("--plugins", nargs="*", default=[], metavar="PACKAGE", help=allowed)

    def nearest(self, option: str) -> str:
        """Suggest the option with the nearest name, ignoring dashes."""
        known = [text.lstrip("-") for action in self._actions for text in action.option_strings if text[:2] == "--"]
        return did_you_mean(option.lstrip("-"), known).replace("'", "'--", 1)


def make_parser() -> Parser:
    """Make a parser for Hydra's options and those of this program."""
    parser = Parser(prog="trpo-train", parents=[get_args_parser()], add_help=False, conflict_handler="resolve")
    parser.add_argument("--version", action="store_true")
    parser.add_argument("--install-completion", nargs="?", const="", choices=(*SHELLS, ""))
    parser.add_argument("--show-completion", nargs="?", const="", choices=(*SHELLS, ""))
    parser.add_argument("--complete", help=argparse.SUPPRESS)
    return parser


OPTIONS = [text for action in make_parser()._actions for text in action.option_strings]


def read(arguments: Sequence[str]) -> CommandLine:
    """Parse a command line. Raises `UserError` for an option that does not exist or lacks its value."""
    parsing = make_parser()
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
        raise UserError("--experimental-rerun: is not supported; resume=DIR resumes a run")
    if found.resolve and not found.cfg:
        raise UserError("--resolve: takes effect only with --cfg job")
    if found.config_path or found.config_name:
        raise UserError("--config-path, --config-name: there is one configuration; --config-dir DIR adds options to it")
    wanted = {name: getattr(found, name) for name in CommandLine._fields if name not in ("options", "overrides")}
    return CommandLine(options, list(found.overrides), **wanted)


def _refuse_option(text: str, following: str, parsing: Parser) -> NoReturn:
    """Raise an error for an unknown option, which may be an override typed with dashes."""
    option, equals, value = text.partition("=")
    name = option.lstrip("-").replace("-", "_")
    value = value if equals else following if not following.startswith("-") and "=" not in following else "VALUE"
    known = name in (*GROUPS, *ROOT_KEYS) or "." in name or "/" in name
    if known or (value != "VALUE" and not parsing.nearest(option)):
        raise ConfigError(f"{text}: keys and groups take no dashes; write {name}={value}")
    parsing.error(f"unrecognized arguments: {text}")


def path(text: str) -> Path:
    """Parse a path that is not empty; an argparse type."""
    if not text:
        raise argparse.ArgumentTypeError("is empty")
    return Path(text)


def at_least(smallest: int) -> Any:
    """Return an argparse type: a whole number, at least `smallest`."""

    def parse(text: str) -> int:
        value: Any = None
        with contextlib.suppress(ValueError):
            value = as_whole(float(text), int) if re.search(r"[.e]", text, re.IGNORECASE) else int(text)
        if type(value) is not int:
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number")
        if value < smallest:
            raise argparse.ArgumentTypeError(f"{text} is not at least {smallest}")
        return value

    return parse


def checkpoint(text: str) -> int | str:
    """Parse the name of a checkpoint, or its environment steps; an argparse type."""
    if text in (NEWEST, BEST):
        return text
    try:
        return int(at_least(0)(text))
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; newest, best or a number of steps fits") from error


def check_overrides(overrides: Sequence[str], config_dir: str | None = None) -> None:
    """Raise `ConfigError` for malformed overrides, and for options outside the configuration directories."""
    if config_dir is not None and not Path(config_dir).is_dir():
        raise ConfigError(f"--config-dir: there is no directory {config_dir}")
    for i, text in enumerate(overrides):
        key, equals, value = text.partition("=")
        if not equals and not text.startswith("~"):
            raise _explain_word(text, overrides[:i], overrides[i + 1 : i + 3], config_dir)
        if not key.strip("+~ "):
            raise ConfigError(
                f"'{text}': there is no key before '='; KEY=VALUE and GROUP=OPTION are written without spaces"
            )
        if value.startswith("="):
            raise ConfigError(f"'{text}': '=' occurs twice; write {key}={value.lstrip('=')}")
        if key.startswith("+") and key.lstrip("+").partition("/")[0] in GROUPS:
            raise ConfigError(f"{key.lstrip('+')}: is chosen twice; leave out the +")
        if _names_an_option(key) and _contains_parent(text):
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
            raise ConfigError(f"{key}: {value} is a file, but this key takes a directory")
        if value.startswith("~/"):
            raise ConfigError(
                f"'{text}': the shell does not expand this ~; write {shlex.quote(key + equals + expanduser(value))}"
            )


def read_list(key: str, overrides: Sequence[str]) -> list[str]:
    """Return the list that the overrides give for a key, or an empty list."""
    words = [text for text in overrides if text.lstrip("+").startswith(f"{key}=")]
    value: Any = OverridesParser.create().parse_override(words[-1]).value() if words else []
    return [str(item) for item in value] if isinstance(value, list) else []


def _names_an_option(key: str) -> bool:
    return "/" in key or "@" in key or ("." not in key and key.lstrip("+") not in ROOT_KEYS)


def _contains_parent(text: str) -> bool:
    """Whether any path in the text has a component `..`."""
    plain = text
    for separator in "=,@+[]'\" ":
        plain = plain.replace(separator, "/")
    return ".." in plain.split("/")


def _explain_word(text: str, before: Sequence[str], following: Sequence[str], config_dir: str | None) -> ConfigError:
    """Explain a word without `=`: an option without its group, or an override with spaces in it."""
    if following and following[0].startswith("="):
        value = following[0].lstrip("=") or "".join(following[1:])
        return ConfigError(f"'{text}': an override has no spaces around '='; write {text}={value or 'VALUE'}")
    if text in (*GROUPS, *ROOT_KEYS):
        value = following[0] if following and "=" not in following[0] else "VALUE"
        return ConfigError(f"'{text}': a name and its value are joined by '='; write {text}={value}")
    if before and (before[-1].endswith(",") or before[-1].count("[") > before[-1].count("]")):
        comma = "" if before[-1].endswith((",", "[")) else ","
        return ConfigError(f"'{text}': values are listed without spaces; write {before[-1]}{comma}{text}")
    if f"--{text}" in OPTIONS:
        return UnknownNameError(
            f"'{text}' is not an override: overrides are GROUP=OPTION and KEY=VALUE; did you mean --{text}?"
        )
    if ":" in text:
        key, _, value = text.partition(":")
        return ConfigError(f"'{text}': a value follows '='; write {key}={value.strip()}")
    known = {f"{group}={name}": name for group in GROUPS for name in list_options(group, find_roots(config_dir))}
    close = [
        option for option, name in known.items() if text.lower() in (name.lower(), name.lower().rpartition("-v")[0])
    ]
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return UnknownNameError(f"'{text}' is not an override: overrides are GROUP=OPTION and KEY=VALUE{hint}")


def list_options(group: str, places: Sequence[Path]) -> list[str]:
    """List the options of a group. Those of `env` include every registered id, for which Gymnasium is imported."""
    if group != "env":
        return list_choices(group, places)
    from trpo_cli.envs.registered import registered_ids

    return sorted({*list_choices(group, places), *registered_ids()})


def allow_new_keys(overrides: Sequence[str]) -> list[str]:
    """Prefix overrides of `env.kwargs` and of schedules with `++`, which Hydra requires for new keys."""
    is_open = (text.startswith((f"{OPEN}=", f"{OPEN}.")) or OPEN_SCHEDULES.match(text) for text in overrides)
    return [f"++{text}" if new else text for text, new in zip(overrides, is_open, strict=True)]
