"""Clear messages for mistakes on the command line and in YAML files, in place of those of Hydra and OmegaConf."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import (
    ConfigTypeError,
    GrammarParseError,
    InterpolationResolutionError,
    OmegaConfBaseException,
)

from trpo_cli.cli.command_line import PLACES, CommandLine, read, read_list
from trpo_cli.cli.search_path import compose_options
from trpo_cli.config.groups import CONF, GROUPS, OF_SWEEPS, find_roots, list_choices, list_parts
from trpo_cli.config.moved import DECAYS, explain_move
from trpo_cli.config.settings import flatten
from trpo_cli.config.yaml_files import find_place
from trpo_cli.errors import INHERIT_HINT, ConfigError, UnknownNameError, UserError, did_you_mean, suggest_name
from trpo_cli.shell import shell_command, short_path

EXTRAS = {
    "hydra/launcher/joblib": "joblib",
    "hydra/launcher/submitit_local": "slurm",
    "hydra/launcher/submitit_slurm": "slurm",
    "hydra/launcher/ray": "ray",
}
"""Option that needs an optional dependency -> the extra of this package that installs it."""
OPTIONAL = ("experiment", "logger")  # groups from which no option need be chosen
OPTUNA = "hydra/sweeper/optuna.yaml"
SWEEPS = ("choice", "range", "interval", "tag", "glob", "sort", "shuffle", "int", "float", "str", "bool")
"""Functions of Hydra's override grammar."""


def describe_error(error: UserError) -> str:
    """Format an error of the user, with its place in the user's files, and for an unknown name where to look it up."""
    if Path(sys.argv[0]).name in ("trpo-eval", "trpo-export", "trpo-report"):
        return f"error: {error}"
    key = re.match(r"[a-z_]+(\.\w+)+(?=(\[\d+\])?: )", str(error))
    place = _find_key(key[0]) if key and isinstance(error, ConfigError) else ""
    lookup = "trpo-train --help lists all groups and options, and --cfg job lists every key"
    more = [f"it is set in {place}"] * bool(place) + [lookup] * isinstance(error, UnknownNameError)
    return "\n".join([f"error: {error}", *more])


def _find_key(key: str) -> str:
    """Find the places of a key in the user's YAML files, unless it is on the command line."""
    if any(text.lstrip("+~").startswith(f"{key}=") for text in _read_typed().overrides):
        return ""
    name, chosen = key.rpartition(".")[2], _list_chosen()
    found = {
        path: place for path in _list_own_files() if (place := find_place(path.read_bytes(), lambda text: text == name))
    }
    return ", ".join(f"{short_path(path)}{place}" for path, place in found.items() if path.stem in chosen)


def _list_own_files() -> list[Path]:
    """List the user's YAML files, those chosen by name first."""
    folders = [place / group for place in _list_places()[1:] for group in (*GROUPS, "hydra", "tuned")]
    found = [path for folder in folders for path in sorted(folder.rglob("*.yaml")) if os.access(path, os.R_OK)]
    return sorted(found, key=lambda path: path.stem not in _list_chosen())


def _list_chosen() -> set[str]:
    """Return the name of every option on the command line."""
    return {name for text in _read_typed().overrides for name in text.partition("=")[2].split(",")}


def _list_places() -> list[Path]:
    """List every directory that contains groups, that of this package first."""
    typed = _read_typed()
    searched = [Path(place) for place in read_list("hydra.searchpath", typed.overrides) if "://" not in place]
    return [*find_roots(typed.config_dir), *searched]


def explain(error: Exception) -> ConfigError:
    """Explain an error of Hydra or OmegaConf in a line or two."""
    match error:
        case OmegaConfBaseException() if "Missing mandatory value: " in str(error):
            key = str(error).partition("Missing mandatory value: ")[2].split()[0]
            key = whole if (whole := str(error.full_key)).endswith(f".{key}") else key
            return ConfigError(f"{key}: has no default; give it with {key}=VALUE")
        case MissingConfigException(missing_cfg_file=str(missing)):
            unknown = _explain_unknown_option(missing, error.options or [])
            return _locate_in_file(str(error), missing.rpartition("/")[2], unknown)
        case RecursionError():
            return ConfigError("the defaults of an option lead back to that option")
        case InterpolationResolutionError():
            return _explain_reference(str(error).splitlines()[0])
        case GrammarParseError():
            begun = ConfigError(f"{error.full_key}: '${{' begins a reference, and '}}' ends it")
            return _locate_in_file("", "${", begun)
        case OverrideParseException():
            return ConfigError(_describe_unreadable(str(error.override)))
        case ConfigCompositionException(__cause__=OmegaConfBaseException() as cause) if cause.full_key:
            return explain(cause)
        case ConfigCompositionException() if "\nCannot merge" in str(error):
            where = str(error).partition(": ")[0]
            return ConfigError(f"{where}: a list stands where a mapping belongs, {{NAME: VALUE}}, or the reverse")
        case ConfigTypeError(full_key=str(key), parent_node=node) if "Cannot merge" in str(error):
            return _explain_other_kind(key, node)
        case OmegaConfBaseException(full_key=str(group)) if "/" in group:
            return _explain_unknown_group(group)
        case OmegaConfBaseException(full_key=str(full_key), parent_node=DictConfig() as parent) if full_key:
            if full_key.rpartition(".")[2] in parent:
                return ConfigError(f"{full_key}: {str(error).splitlines()[0]}")
            return _explain_unknown_key(full_key, [str(key) for key in parent if key not in ("_target_", "hydra")])
        case HydraException():
            return _locate_in_file(str(error), "override", _explain_message(str(error).splitlines()[0]))
        case _:
            return ConfigError(str(error).splitlines()[0])


def _explain_unknown_key(key: str, siblings: Sequence[str]) -> ConfigError:
    """Explain an unknown key, given its siblings."""
    typed = next((text.lstrip("+").partition("=")[0] for text in _read_typed().overrides if key in text), key)
    above, _, name = key.rpartition(".")
    if key in OPTIONAL:
        options = "|".join(list_choices(key, _list_places()))
        return ConfigError(f"{key}: has no keys before an option is chosen: {key}={options}")
    if name in DECAYS:
        return UnknownNameError(f"{key}: no such key{explain_move(name, f'{above}.')}")
    if not siblings:
        return UnknownNameError(f"{typed}: no such key; {above} is a value and has no keys")
    if above == "hydra.sweeper" and find_place((CONF / OPTUNA).read_bytes(), lambda text: text == name):
        return ConfigError(f"{key}: applies only to a search, with hydra/sweeper=optuna")
    hint = _suggest_elsewhere(typed.rpartition(".")[2]) or suggest_name(name, siblings, f"{above}." if above else "")
    return UnknownNameError(f"{key}: no such key{hint}")


def _locate_in_file(message: str, text: str, error: ConfigError) -> ConfigError:
    """Prefix an error with the place of `text` in the user's file that the message names, or in any of them."""
    if parent := re.match(r"In '?([\w./-]+)'?: ", message):
        files = [path for place in _list_places()[1:] if (path := place / f"{parent[1]}.yaml").is_file()]
    else:
        files = [] if message or any(text in word for word in _read_typed().overrides) else _list_own_files()
    for path in files:
        if place := find_place(path.read_bytes(), lambda value: text in value):
            return type(error)(f"{short_path(path)}{place}: {error}")
    return error


def _explain_reference(message: str) -> ConfigError:
    """Explain a reference `${KEY}` to a key that does not exist."""
    found = re.search(r"Interpolation key '([^']+)' not found", message)
    if not found:
        return _locate_in_file("", "${", ConfigError(message))
    group, _, key = found[1].partition(".")
    if group in GROUPS and not any(
        f"${{{found[1]}" in text for text in _read_typed().overrides
    ):  # from a YAML file of the package
        return ConfigError(f"{group}: its YAML has no {key}; {INHERIT_HINT}")
    hint = _suggest_elsewhere(found[1].rpartition(".")[2])
    return _locate_in_file("", f"${{{found[1]}", ConfigError(f"'${{{found[1]}}}' refers to no key{hint}"))


def _describe_unreadable(text: str) -> str:
    key, equals, value = text.partition("=")
    if text.endswith(","):
        return f"'{text}': nothing follows its last comma; write {text.rstrip(',')}"
    if value.startswith(","):
        return f"'{text}': nothing precedes its first comma; write {key}={value.lstrip(',')}"
    if "/" in key and "." in key:
        return f"'{text}': a slash is for groups; write {key.replace('/', '.')}={value}"
    if re.fullmatch(r"\([^()]*\)", value):
        return f"'{text}': lists have square brackets; write {key}=[{value[1:-1]}]"
    if (called := re.match(r"(\w+)\(", value)) and called[1] not in SWEEPS:
        return f"'{text}': there is no {called[1]}(){suggest_name(called[1], SWEEPS)}"
    listed = re.fullmatch(r"(\[)?([^][{}()'\"$]*)(?(1)\])", value)
    if listed and (not listed[1] or re.search(r"[^\w\s.,:/-]", listed[2], re.ASCII)):
        quoted = "[" + ",".join(f"'{word}'" for word in listed[2].split(",")) + "]" if listed[1] else f"'{value}'"
        told = "cannot be read: special characters and non-English letters are quoted twice"
        return f"'{text}' {told}; write \"{key}{equals}{quoted}\""
    return (
        f"'{text}' cannot be read: brackets and quotes come in pairs, "
        "and a value that contains them is quoted twice: \"KEY='VALUE'\""
    )


def _explain_other_kind(key: str, node: Any) -> ConfigError:
    """Explain a list given for a mapping, or the reverse; `node` is the node in the configuration."""
    if not isinstance(node, DictConfig):
        return ConfigError(f"{key}: got a mapping; it takes a list, [VALUE, VALUE]")
    if "_target_" in node:
        group = key.replace(".", "/")
        return ConfigError(f"{key}: got a list; a part is chosen from its group, with a slash: {group}=NAME")
    return ConfigError(f"{key}: got a list; it takes a mapping, {{NAME: VALUE}}")


def _suggest_elsewhere(name: str) -> str:
    """Suggest keys elsewhere in the configuration that have this name or these initials, such as `lr`."""
    node = OmegaConf.to_container(_compose_typed() or DictConfig({}))
    known = [*(key for key, _ in flatten(node) if not key.startswith("hydra.")), *(text.rstrip("=") for text in PLACES)]
    keys = [key for key in known if name in (key.rpartition(".")[2], _abbreviate(key)) and ".schedule." not in key]
    keys += [group for group in (*list_parts(_list_places()), *OF_SWEEPS) if group.rpartition("/")[2] == name]
    return f"; did you mean {' or '.join(repr(key) for key in keys)}?" if keys else ""


def _abbreviate(key: str) -> str | None:
    words = key.rpartition(".")[2].split("_")
    return "".join(word[:1] for word in words) if len(words) > 1 else None


def _explain_message(text: str) -> ConfigError:
    """Explain an error of Hydra that can be recognised only by its text."""
    if found := re.search(r"Ambiguous value for argument '([^=]*)=(.*)'", text):
        return ConfigError(f"{found[1]}: got several values; -m runs each of them{_suggest_value(*found.groups())}")
    if found := re.search(r"Sweep parameters '([^']*)' requires", text):
        return ConfigError(f"{found[1]}: stands for several values; -m runs each of them")
    if found := re.search(r"Could not override '([^']+)'", text):
        return _explain_unknown_group(found[1])
    if found := re.search(r"^(\S+) appears more than once", text):
        return ConfigError(f"{found[1]}: is chosen twice; leave out the +")
    if (found := re.search(r"Could not load '([^']+)'", text)) and found[1] in EXTRAS:
        return _explain_missing_package(found[1])
    return ConfigError(text)


def _suggest_value(key: str, values: str) -> str:
    """Suggest what a comma may have been meant for, other than a sweep."""
    match OmegaConf.select(_compose_typed() or DictConfig({}), key.lstrip("+")):
        case ListConfig():
            return f", and a list is written {key}=[{values}]"
        case float() if re.fullmatch(r"\d+,\d+", values):
            return f", and one number is written with a point, {key}={values.replace(',', '.')}"
        case int() if re.fullmatch(r"\d{1,3}(,\d{3})+", values):
            return f", and one number is written {key}={values.replace(',', '_')}"
    return ""


def _explain_unknown_option(missing: str, known: Sequence[str]) -> ConfigError:
    """Explain an unknown option. Only `algo` and `hydra` contain groups."""
    nested = missing.startswith(("algo/", "hydra/"))
    group, _, name = missing.rpartition("/") if nested else missing.partition("/")
    if missing in EXTRAS:
        return _explain_missing_package(missing)
    if group in GROUPS:
        known = sorted({*known, *list_choices(group, _list_places())})
    if group in GROUPS and (inner := name.partition("/")[0]) in {*GROUPS, "hydra"} and inner != name:
        return _explain_root_group(f"{group}/{inner}", inner)
    if group in OPTIONAL and name.lower() in ("none", "false", "off", "no"):
        return UnknownNameError(f"{group}: no option '{name}'; {group}=null chooses none")
    if group == "env":
        return UnknownNameError(f"env: no option '{name}'{_suggest_environments(name, known)}")
    return UnknownNameError(f"{group}: no option '{name}'{suggest_name(name, known)}")


def _explain_root_group(group: str, inner: str) -> UnknownNameError:
    """Explain a YAML file that chooses a root group as if it lay within its own group."""
    return UnknownNameError(f"{group}: no such group; a group at the root is called /{inner}@_global_.{inner} there")


def _explain_missing_package(option: str) -> ConfigError:
    group, _, name = option.rpartition("/")
    return ConfigError(f"{group}: {name} is not installed: {shell_command('pip')} install 'trpo-cli[{EXTRAS[option]}]'")


def _suggest_environments(name: str, known: Sequence[str]) -> str:
    from trpo_cli.envs.registered import explain_atari, versions  # Gymnasium is slow to import

    if ":" in name:
        module, _, id = name.partition(":")
        return f"; no package is named in an id: plugins=[{module}] env={id}"
    if others := versions(name, known):
        return f"; there are {', '.join(others)}" if len(others) > 1 else f"; did you mean '{others[0]}'?"
    more = "any id that is registered with Gymnasium will do; plugins=[PACKAGE] imports a package that registers some"
    return f"{did_you_mean(name, known)}\n{more}{explain_atari(name)}"


def _explain_unknown_group(group: str) -> ConfigError:
    """Explain a group that does not exist, or that the chosen algorithm does not have."""
    config = _compose_typed()
    everywhere = list_parts(_list_places())
    if config is not None and group in everywhere:
        choices_ = config.hydra.runtime.choices
        there = sorted(name for name in choices_ if name.startswith("algo/") and "@" not in name)
        return UnknownNameError(f"{group}: no such part of this algorithm; it has {', '.join(there) or 'none'}")
    if group in OF_SWEEPS:
        return ConfigError(f"{group}: applies only to a search, with -m hydra/sweeper=optuna")
    inner = group.partition("@")[0].rpartition("/")[2]
    if inner in GROUPS and inner != group:
        return _explain_root_group(group, inner)
    return UnknownNameError(f"{group}: no such group{suggest_name(group, [*GROUPS, *everywhere])}")


def _compose_typed() -> DictConfig | None:
    return compose_options(_read_typed())


def _read_typed() -> CommandLine:
    return read(sys.argv[1:])
