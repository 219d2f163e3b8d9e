"""What a mistake in an override comes down to, with the nearest name that would fit: Hydra's words become ours."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigTypeError, OmegaConfBaseException

from trpo_cli.command_line import read
from trpo_cli.errors import ConfigError, UnknownNameError, UserError, nearest
from trpo_cli.groups import CONF, GROUPS, choices, parts, roots
from trpo_cli.settings import flat

EXTRAS = {
    "hydra/launcher/joblib": "joblib",
    "hydra/launcher/submitit_local": "slurm",
    "hydra/launcher/submitit_slurm": "slurm",
    "hydra/launcher/ray": "ray",
}
"""The options that an optional dependency brings, and what of this package's asks for that."""


def told(error: UserError) -> str:
    """The message of a user's error; of a mistaken name, with where it stands, and where to look things up."""
    if not isinstance(error, UnknownNameError) or Path(sys.argv[0]).name in ("trpo-eval", "trpo-report"):
        return f"error: {error}"
    return f"error: {error}{_standing(str(error))}\ntrpo-train --help lists what there is, --cfg job every key"


def _standing(message: str) -> str:
    """In which of the user's YAML files the key stands that a message calls unknown."""
    key, unknown, _ = message.partition(": no such key")
    line = re.compile(rf"^\s*{re.escape(key.rpartition('.')[2])}\s*:", re.MULTILINE)
    files = (path for place in roots(_config_dir())[1:] for path in sorted(place.rglob("*.yaml")) if unknown)
    found = [path for path in files if line.search(path.read_text(encoding="utf-8", errors="replace"))]
    return f"\nit stands in {', '.join(map(str, found))}" if found else ""


def explained(error: Exception) -> ConfigError:
    """What Hydra or OmegaConf found, in a line or two."""
    match error:
        case OmegaConfBaseException() if "Missing mandatory value: " in str(error):
            key = str(error).partition("Missing mandatory value: ")[2].split()[0]
            return ConfigError(f"{key}: has no default; give it with {key}=VALUE")
        case MissingConfigException(missing_cfg_file=str(missing), options=list(known)):
            return _no_option(missing, known)
        case OverrideParseException():
            return ConfigError(_unreadable(str(error.override)))
        case ConfigCompositionException(__cause__=OmegaConfBaseException() as cause) if cause.full_key:
            return explained(cause)
        case ConfigTypeError(full_key=str(key), parent_node=node) if "Cannot merge" in str(error):
            return _other_kind(key, node)
        case OmegaConfBaseException(full_key=str(group)) if "/" in group:
            return _no_part(group)
        case OmegaConfBaseException(full_key=str(full_key), parent_node=parent) if full_key and hasattr(parent, "keys"):
            name = full_key.rpartition(".")[2]
            if name in parent:
                return ConfigError(f"{full_key}: {str(error).splitlines()[0]}")
            siblings = [str(key) for key in parent if key not in ("_target_", "hydra")]
            return UnknownNameError(f"{full_key}: no such key{_elsewhere(name) or _among(name, siblings)}")
        case HydraException():
            return _other(str(error).splitlines()[0])
        case _:
            return ConfigError(str(error).splitlines()[0])


def _unreadable(text: str) -> str:
    if text.endswith(","):
        return f"'{text}': nothing follows its last comma; say {text.rstrip(',')}"
    return (
        f"'{text}' cannot be read: brackets and quotes come in pairs, "
        "and a value with such signs in it is quoted twice: \"KEY='VALUE'\""
    )


def _other_kind(key: str, node: Any) -> ConfigError:
    """A list where `node`, a mapping, stands, or the other way round."""
    if not isinstance(node, DictConfig):
        return ConfigError(f"{key}: got a mapping; it takes a list, [VALUE, VALUE]")
    if "_target_" in node:
        group = key.replace(".", "/")
        return ConfigError(f"{key}: got a list; a part is chosen from its group, with a slash: {group}=NAME")
    return ConfigError(f"{key}: got a list; it takes a mapping, {{NAME: VALUE}}")


def _elsewhere(name: str) -> str:
    """The keys of what was chosen that are called so at other places, or whose initials these are: `lr`."""
    node = OmegaConf.to_container(_composed() or DictConfig({}))
    known = [key for key, _ in flat(node) if not key.startswith("hydra.")]
    keys = [key for key in known if name in (key.rpartition(".")[2], _initials(key))]
    return f"; did you mean {' or '.join(repr(key) for key in keys)}?" if keys else ""


def _initials(key: str) -> str | None:
    words = key.rpartition(".")[2].split("_")
    return "".join(word[:1] for word in words) if len(words) > 1 else None


def _other(text: str) -> ConfigError:
    """What Hydra says in a line of text alone."""
    if found := re.search(r"Ambiguous value for argument '([^=]*)=(.*)'", text):
        key, values = found.groups()
        list_ = "" if key in GROUPS or "/" in key else f", and a list is written {key}=[{values}]"
        return ConfigError(f"{key}: got several values; -m runs each of them{list_}")
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


def _no_option(missing: str, known: Sequence[str]) -> ConfigError:
    """A name that no option of its group has. Only of an algorithm and of Hydra do groups have groups in them."""
    nested = missing.startswith(("algo/", "hydra/"))
    group, _, name = missing.rpartition("/") if nested else missing.partition("/")
    if group == "env":
        return UnknownNameError(f"env: no option '{name}'{_other_environments(name, known)}")
    if missing in EXTRAS:
        return _not_installed(missing)
    if group in GROUPS:
        known = sorted({*known, *choices(group, roots(_config_dir()))})
    return UnknownNameError(f"{group}: no option '{name}'{_among(name, known)}")


def _not_installed(option: str) -> ConfigError:
    group, _, name = option.rpartition("/")
    return ConfigError(f"{group}: {name} is not installed: pip install 'trpo-cli[{EXTRAS[option]}]'")


def _other_environments(name: str, known: Sequence[str]) -> str:
    from trpo_cli.envs.registered import versions  # Gymnasium is slow to import

    if others := versions(name, known):
        return f"; there are {', '.join(others)}" if len(others) > 1 else f"; did you mean '{others[0]}'?"
    more = "any id that is registered with Gymnasium will do; plugins=[PACKAGE] imports a package that registers some"
    return f"{nearest(name, known)}\n{more}"


def _no_part(group: str) -> UnknownNameError:
    """A group that is not there, or not with the algorithm that was chosen."""
    config = _composed()
    everywhere = parts(roots(_config_dir()))
    if config is not None and group in everywhere:
        choices_ = config.hydra.runtime.choices
        there = sorted(name for name in choices_ if name.startswith("algo/") and "@" not in name)
        return UnknownNameError(f"{group}: no part of this algorithm; it has {', '.join(there) or 'none'}")
    return UnknownNameError(f"{group}: no such group{_among(group, [*GROUPS, *everywhere])}")


def _composed() -> DictConfig | None:
    """The configuration of those of our options that were chosen on this command line; None if they do not compose."""
    said = (text.partition("=")[::2] for text in read(sys.argv[1:]).overrides)
    first = ((group, values.partition(",")[0]) for group, values in said)  # of a sweep
    chosen = [f"{group}={name}" for group, name in first if group in GROUPS and name in choices(group, [CONF])]
    one, in_use = GlobalHydra.instance(), GlobalHydra.instance().hydra  # by a sweep
    one.clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("train", chosen, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException):
        return None
    finally:
        one.hydra = in_use


def _config_dir() -> str | None:
    return read(sys.argv[1:]).config_dir


def _among(name: str, known: Sequence[str]) -> str:
    """The nearest of the known names, or all of them."""
    return nearest(name, known) or f"; there are: {', '.join(known)}"
