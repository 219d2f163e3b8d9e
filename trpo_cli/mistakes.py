"""What a mistake in an override comes down to, with the nearest name that would fit: Hydra's words become ours."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from trpo_cli.command_line import read
from trpo_cli.errors import ConfigError, UserError, nearest
from trpo_cli.groups import CONF, GROUPS, choices, parts, roots

EXTRAS = {
    "hydra/launcher/joblib": "joblib",
    "hydra/launcher/submitit_local": "slurm",
    "hydra/launcher/submitit_slurm": "slurm",
    "hydra/launcher/ray": "ray",
}
"""The options that an optional dependency brings, and what of this package's asks for that."""


def told(error: UserError) -> str:
    """The message of a user's error, with where to look things up if it is one of the configuration."""
    name = Path(sys.argv[0]).name
    program = name if name.startswith("trpo-") else "trpo-train"
    more = ", --cfg job every key" if program == "trpo-train" else ""
    pointer = f"\n{program} --help lists what there is{more}" if isinstance(error, ConfigError) else ""
    return f"error: {error}{pointer}"


def explained(error: Exception) -> str:
    """What Hydra or OmegaConf found, in a line or two."""
    match error:
        case OmegaConfBaseException() if "Missing mandatory value: " in str(error):
            key = str(error).partition("Missing mandatory value: ")[2].split()[0]
            return f"{key}: has no default; give it with {key}=VALUE"
        case MissingConfigException(missing_cfg_file=str(missing), options=list(known)):
            return _no_option(missing, known)
        case OverrideParseException():
            return (
                f"'{error.override}' cannot be read: brackets and quotes come in pairs, "
                "and a value with such signs in it is quoted twice: \"KEY='VALUE'\""
            )
        case ConfigCompositionException(__cause__=OmegaConfBaseException() as cause) if cause.full_key:
            return explained(cause)
        case OmegaConfBaseException(full_key=str(group)) if "/" in group:
            return _no_part(group)
        case OmegaConfBaseException(full_key=str(full_key), parent_node=parent) if full_key and hasattr(parent, "keys"):
            name = full_key.rpartition(".")[2]
            if name in parent:
                return f"{full_key}: {str(error).splitlines()[0]}"
            return f"{full_key}: no such key{_among(name, [str(key) for key in parent])}"
        case HydraException():
            return _other(str(error).splitlines()[0])
        case _:
            return str(error).splitlines()[0]


def _other(text: str) -> str:
    """What Hydra says in a line of text alone."""
    if found := re.search(r"Ambiguous value for argument '([^=]*)=(.*)'", text):
        key, values = found.groups()
        list_ = "" if key in GROUPS or "/" in key else f", and a list is written {key}=[{values}]"
        return f"{key}: got several values; -m runs each of them{list_}"
    if found := re.search(r"Sweep parameters '([^']*)' requires", text):
        return f"{found[1]}: stands for several values; -m runs each of them"
    if found := re.search(r"Could not override '([^']+)'", text):
        return _no_part(found[1])
    if found := re.search(r"^(\S+) appears more than once", text):
        return f"{found[1]}: is chosen twice; a group takes no + before it"
    if (found := re.search(r"Could not load '([^']+)'", text)) and found[1] in EXTRAS:
        return _not_installed(found[1])
    if found := re.search(r"directory '([^']+)' not found", text):
        return f"--config-dir: there is no directory {found[1]}"
    return text


def _no_option(missing: str, known: Sequence[str]) -> str:
    """A name that no option of its group has. Only of an algorithm and of Hydra do groups have groups in them."""
    nested = missing.startswith(("algo/", "hydra/"))
    group, _, name = missing.rpartition("/") if nested else missing.partition("/")
    if group == "env":
        return f"env: no option '{name}'{_other_environments(name, known)}"
    if missing in EXTRAS:
        return _not_installed(missing)
    if group in GROUPS:
        known = sorted({*known, *choices(group, roots(_config_dir()))})
    return f"{group}: no option '{name}'{_among(name, known)}"


def _not_installed(option: str) -> str:
    group, _, name = option.rpartition("/")
    return f"{group}: {name} is not installed: pip install 'trpo-cli[{EXTRAS[option]}]'"


def _other_environments(name: str, known: Sequence[str]) -> str:
    from trpo_cli.envs.registered import versions  # Gymnasium is slow to import

    if others := versions(name, known):
        return f"; there are {', '.join(others)}" if len(others) > 1 else f"; did you mean '{others[0]}'?"
    more = "any id that is registered with Gymnasium will do; plugins=[PACKAGE] imports a package that registers some"
    return f"{nearest(name, known)}\n{more}"


def _no_part(group: str) -> str:
    """A group that is not there, or not with the algorithm that was chosen."""
    there = _parts_of_the_algorithm()
    everywhere = parts(roots(_config_dir()))
    if there is not None and group in everywhere:
        return f"{group}: no part of this algorithm; it has {', '.join(there) or 'none'}"
    return f"{group}: no such group{_among(group, [*GROUPS, *everywhere])}"


def _parts_of_the_algorithm() -> list[str] | None:
    """The groups `algo/...` of what was chosen on this command line; None if that alone cannot be composed."""
    chosen = [text for text in read(sys.argv[1:]).overrides if text.partition("=")[0] in GROUPS]
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("train", chosen, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException):
        return None
    return sorted(name for name in config.hydra.runtime.choices if name.startswith("algo/") and "@" not in name)


def _config_dir() -> str | None:
    return read(sys.argv[1:]).config_dir


def _among(name: str, known: Sequence[str]) -> str:
    """The nearest of the known names, or all of them."""
    return nearest(name, known) or f"; there are: {', '.join(known)}"
