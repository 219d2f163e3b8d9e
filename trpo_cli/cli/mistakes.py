"""Explaining mistakes: Hydra's errors in our own words, with the nearest name that fits."""

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
from trpo_cli.cli.search_path import sketch
from trpo_cli.config.groups import CONF, GROUPS, OF_SWEEPS, choices, parts, roots
from trpo_cli.config.settings import flat
from trpo_cli.config.yaml_files import find_place
from trpo_cli.errors import INHERIT_HINT, ConfigError, UnknownNameError, UserError, did_you_mean
from trpo_cli.shell import shell_command, short_path

EXTRAS = {
    "hydra/launcher/joblib": "joblib",
    "hydra/launcher/submitit_local": "slurm",
    "hydra/launcher/submitit_slurm": "slurm",
    "hydra/launcher/ray": "ray",
}
"""Options that need an optional dependency -> the extra of this package that installs it."""
OPTIONAL = ("experiment", "logger")  # groups that a run can do without
OPTUNA = "hydra/sweeper/optuna.yaml"
SWEEPS = ("choice", "range", "interval", "tag", "glob", "sort", "shuffle", "int", "float", "str", "bool")
"""Functions of Hydra's override grammar."""


def describe_error(error: UserError) -> str:
    """Format a user's error, with the place in the user's own files, and for a mistaken name where to look it up."""
    if Path(sys.argv[0]).name in ("trpo-eval", "trpo-report"):
        return f"error: {error}"
    key = re.match(r"[a-z_]+(\.\w+)+(?=(\[\d+\])?: )", str(error))
    place = _key_stands(key[0]) if key and isinstance(error, ConfigError) else ""
    lookup = "trpo-train --help lists what there is, --cfg job every key"
    more = [f"it stands in {place}"] * bool(place) + [lookup] * isinstance(error, UnknownNameError)
    return "\n".join([f"error: {error}", *more])


def _key_stands(key: str) -> str:
    """Find the places of a key in the user's own YAML files, unless it is on the command line."""
    if any(text.lstrip("+~").startswith(f"{key}=") for text in _said().overrides):
        return ""
    name, chosen = key.rpartition(".")[2], _chosen()
    found = {
        path: place for path in _own_files() if (place := find_place(path.read_bytes(), lambda text: text == name))
    }
    return ", ".join(f"{short_path(path)}{place}" for path, place in found.items() if path.stem in chosen)


def _own_files() -> list[Path]:
    """List the user's own YAML files, those chosen by name first."""
    folders = [place / group for place in _places()[1:] for group in (*GROUPS, "hydra")]
    found = [path for folder in folders for path in sorted(folder.rglob("*.yaml")) if os.access(path, os.R_OK)]
    return sorted(found, key=lambda path: path.stem not in _chosen())


def _chosen() -> set[str]:
    """Every name of an option on the command line."""
    return {name for text in _said().overrides for name in text.partition("=")[2].split(",")}


def _places() -> list[Path]:
    """Every directory with groups in it, ours first."""
    said = _said()
    searched = [Path(place) for place in read_list("hydra.searchpath", said.overrides) if "://" not in place]
    return [*roots(said.config_dir), *searched]


def explain(error: Exception) -> ConfigError:
    """Explain an error of Hydra or OmegaConf in a line or two."""
    match error:
        case OmegaConfBaseException() if "Missing mandatory value: " in str(error):
            key = str(error).partition("Missing mandatory value: ")[2].split()[0]
            return ConfigError(f"{key}: has no default; give it with {key}=VALUE")
        case MissingConfigException(missing_cfg_file=str(missing)):
            return _in_a_file(str(error), missing.rpartition("/")[2], _no_option(missing, error.options or []))
        case RecursionError():
            return ConfigError("a list of defaults leads back to the option that it is of")
        case InterpolationResolutionError():
            return _no_reference(str(error).splitlines()[0])
        case GrammarParseError():
            return _in_a_file("", "${", ConfigError(f"{error.full_key}: '${{' begins a reference, and '}}' ends it"))
        case OverrideParseException():
            return ConfigError(_unreadable(str(error.override)))
        case ConfigCompositionException(__cause__=OmegaConfBaseException() as cause) if cause.full_key:
            return explain(cause)
        case ConfigTypeError(full_key=str(key), parent_node=node) if "Cannot merge" in str(error):
            return _other_kind(key, node)
        case OmegaConfBaseException(full_key=str(group)) if "/" in group:
            return _no_part(group)
        case OmegaConfBaseException(full_key=str(full_key), parent_node=DictConfig() as parent) if full_key:
            if full_key.rpartition(".")[2] in parent:
                return ConfigError(f"{full_key}: {str(error).splitlines()[0]}")
            return _no_key(full_key, [str(key) for key in parent if key not in ("_target_", "hydra")])
        case HydraException():
            return _in_a_file(str(error), "override", _other(str(error).splitlines()[0]))
        case _:
            return ConfigError(str(error).splitlines()[0])


def _no_key(key: str, siblings: Sequence[str]) -> ConfigError:
    """Explain an unknown key, given its siblings."""
    typed = next((text.lstrip("+").partition("=")[0] for text in _said().overrides if key in text), key)
    above, _, name = key.rpartition(".")
    if key in OPTIONAL:
        return ConfigError(f"{key}: has no keys before an option is chosen: {key}={'|'.join(choices(key, _places()))}")
    if not siblings:
        return UnknownNameError(f"{typed}: no such key; {above} is a value, and has none")
    if above == "hydra.sweeper" and find_place((CONF / OPTUNA).read_bytes(), lambda text: text == name):
        return ConfigError(f"{key}: is of a search, with hydra/sweeper=optuna")
    hint = _elsewhere(typed.rpartition(".")[2]) or _among(name, siblings, f"{above}." if above else "")
    return UnknownNameError(f"{key}: no such key{hint}")


def _in_a_file(message: str, text: str, error: ConfigError) -> ConfigError:
    """Prefix an error with the place of `text` in the user's file that the message names, or in any of them."""
    if parent := re.match(r"In '?([\w./-]+)'?: ", message):
        files = [path for place in _places()[1:] if (path := place / f"{parent[1]}.yaml").is_file()]
    else:
        files = [] if message or any(text in word for word in _said().overrides) else _own_files()
    for path in files:
        if place := find_place(path.read_bytes(), lambda value: text in value):
            return type(error)(f"{short_path(path)}{place}: {error}")
    return error


def _no_reference(message: str) -> ConfigError:
    """Explain a reference `${KEY}` to a key that does not exist."""
    found = re.search(r"Interpolation key '([^']+)' not found", message)
    if not found:
        return _in_a_file("", "${", ConfigError(message))
    group, _, key = found[1].partition(".")
    if group in GROUPS and not any(f"${{{found[1]}" in text for text in _said().overrides):  # ours, of what they lack
        return ConfigError(f"{group}: its YAML has no {key}; {INHERIT_HINT}")
    hint = _elsewhere(found[1].rpartition(".")[2])
    return _in_a_file("", f"${{{found[1]}", ConfigError(f"'${{{found[1]}}}' refers to no key{hint}"))


def _unreadable(text: str) -> str:
    key, equals, value = text.partition("=")
    if text.endswith(","):
        return f"'{text}': nothing follows its last comma; say {text.rstrip(',')}"
    if value.startswith(","):
        return f"'{text}': nothing stands before its first comma; say {key}={value.lstrip(',')}"
    if "/" in key and "." in key:
        return f"'{text}': a slash is for groups; say {key.replace('/', '.')}={value}"
    if re.fullmatch(r"\([^()]*\)", value):
        return f"'{text}': lists have square brackets; say {key}=[{value[1:-1]}]"
    if (called := re.match(r"(\w+)\(", value)) and called[1] not in SWEEPS:
        return f"'{text}': there is no {called[1]}(){_among(called[1], SWEEPS)}"
    if not re.search(r"[][{}()'\"$]", value):
        return f"'{text}' cannot be read: signs and letters other than those of English are quoted twice; say " + (
            f"\"{key}{equals}'{value}'\""
        )
    return (
        f"'{text}' cannot be read: brackets and quotes come in pairs, "
        "and a value with such signs in it is quoted twice: \"KEY='VALUE'\""
    )


def _other_kind(key: str, node: Any) -> ConfigError:
    """Explain a list given for a mapping, or the reverse; `node` is what the configuration has."""
    if not isinstance(node, DictConfig):
        return ConfigError(f"{key}: got a mapping; it takes a list, [VALUE, VALUE]")
    if "_target_" in node:
        group = key.replace(".", "/")
        return ConfigError(f"{key}: got a list; a part is chosen from its group, with a slash: {group}=NAME")
    return ConfigError(f"{key}: got a list; it takes a mapping, {{NAME: VALUE}}")


def _elsewhere(name: str) -> str:
    """Suggest keys of the same name elsewhere in the configuration, or with these initials, such as `lr`."""
    node = OmegaConf.to_container(_composed() or DictConfig({}))
    known = [*(key for key, _ in flat(node) if not key.startswith("hydra.")), *(text.rstrip("=") for text in PLACES)]
    keys = [key for key in known if name in (key.rpartition(".")[2], _initials(key))]
    keys += [group for group in (*parts(_places()), *OF_SWEEPS) if group.rpartition("/")[2] == name]
    return f"; did you mean {' or '.join(repr(key) for key in keys)}?" if keys else ""


def _initials(key: str) -> str | None:
    words = key.rpartition(".")[2].split("_")
    return "".join(word[:1] for word in words) if len(words) > 1 else None


def _other(text: str) -> ConfigError:
    """Explain an error of Hydra that only its text identifies."""
    if found := re.search(r"Ambiguous value for argument '([^=]*)=(.*)'", text):
        return ConfigError(f"{found[1]}: got several values; -m runs each of them{_one_value(*found.groups())}")
    if found := re.search(r"Sweep parameters '([^']*)' requires", text):
        return ConfigError(f"{found[1]}: stands for several values; -m runs each of them")
    if found := re.search(r"Could not override '([^']+)'", text):
        return _no_part(found[1])
    if found := re.search(r"^(\S+) appears more than once", text):
        return ConfigError(f"{found[1]}: is chosen twice; a group takes no + before it")
    if (found := re.search(r"Could not load '([^']+)'", text)) and found[1] in EXTRAS:
        return _not_installed(found[1])
    if found := re.search(r"directory '([^']+)' not found", text):
        return ConfigError(f"--config-dir: there is no directory {found[1]}")
    return ConfigError(text)


def _one_value(key: str, values: str) -> str:
    """Suggest what else a comma may have been meant for."""
    match OmegaConf.select(_composed() or DictConfig({}), key.lstrip("+")):
        case ListConfig():
            return f", and a list is written {key}=[{values}]"
        case float() if re.fullmatch(r"\d+,\d+", values):
            return f", and one number is written with a point, {key}={values.replace(',', '.')}"
        case int() if re.fullmatch(r"\d{1,3}(,\d{3})+", values):
            return f", and one number is written {key}={values.replace(',', '_')}"
    return ""


def _no_option(missing: str, known: Sequence[str]) -> ConfigError:
    """Explain an unknown option. Only algo and hydra have groups within them."""
    nested = missing.startswith(("algo/", "hydra/"))
    group, _, name = missing.rpartition("/") if nested else missing.partition("/")
    if missing in EXTRAS:
        return _not_installed(missing)
    if group in GROUPS:
        known = sorted({*known, *choices(group, _places())})
    if group in GROUPS and (inner := name.partition("/")[0]) in {*GROUPS, "hydra"} and inner != name:
        return _at_the_root(f"{group}/{inner}", inner)
    if group in OPTIONAL and name.lower() in ("none", "false", "off", "no"):
        return UnknownNameError(f"{group}: no option '{name}'; {group}=null is none")
    if group == "env":
        return UnknownNameError(f"env: no option '{name}'{_other_environments(name, known)}")
    return UnknownNameError(f"{group}: no option '{name}'{_among(name, known)}")


def _at_the_root(group: str, inner: str) -> UnknownNameError:
    """Explain a YAML file that chooses a root group as if it belonged to its own."""
    return UnknownNameError(f"{group}: no such group; a group at the root is called /{inner}@_global_.{inner} there")


def _not_installed(option: str) -> ConfigError:
    group, _, name = option.rpartition("/")
    return ConfigError(f"{group}: {name} is not installed: {shell_command('pip')} install 'trpo-cli[{EXTRAS[option]}]'")


def _other_environments(name: str, known: Sequence[str]) -> str:
    from trpo_cli.envs.registered import versions  # Gymnasium is slow to import

    if others := versions(name, known):
        return f"; there are {', '.join(others)}" if len(others) > 1 else f"; did you mean '{others[0]}'?"
    more = "any id that is registered with Gymnasium will do; plugins=[PACKAGE] imports a package that registers some"
    return f"{did_you_mean(name, known)}\n{more}"


def _no_part(group: str) -> ConfigError:
    """Explain a group that does not exist, or not for the chosen algorithm."""
    config = _composed()
    everywhere = parts(_places())
    if config is not None and group in everywhere:
        choices_ = config.hydra.runtime.choices
        there = sorted(name for name in choices_ if name.startswith("algo/") and "@" not in name)
        return UnknownNameError(f"{group}: no part of this algorithm; it has {', '.join(there) or 'none'}")
    if group in OF_SWEEPS:
        return ConfigError(f"{group}: is of a search, with -m hydra/sweeper=optuna")
    inner = group.partition("@")[0].rpartition("/")[2]
    if inner in GROUPS and inner != group:
        return _at_the_root(group, inner)
    return UnknownNameError(f"{group}: no such group{_among(group, [*GROUPS, *everywhere])}")


def _composed() -> DictConfig | None:
    return sketch(_said())


def _said() -> CommandLine:
    return read(sys.argv[1:])


def _among(name: str, known: Sequence[str], above: str = "") -> str:
    """Suggest the nearest of the known names, prefixed by `above`, or list them all."""
    return did_you_mean(name, known, above) or f"; there are: {', '.join(known)}"
