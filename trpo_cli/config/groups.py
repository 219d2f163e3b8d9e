"""The location of the configuration, and the groups and options in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trpo_cli.config.plugins import find_configurations

_PACKAGE = Path(__file__).resolve().parent.parent
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
"""The configuration: inside the package in a wheel, beside it in a source tree."""

PART_GROUPS = ("algo", "env", "sampler", "policy", "critic")
GROUPS = (*PART_GROUPS, "experiment", "logger")
OF_SWEEPS = ("hydra/launcher", "hydra/sweeper", "hydra/sweeper/sampler", "hydra/sweeper/pruner")
OF_HYDRA = {"hydra/launcher": {"basic", "joblib", "ray", "submitit_local"}}
"""Options from Hydra and its plugins."""
INGREDIENTS = {"base"}  # files that options build on, but that are not options themselves


def find_roots(config_dir: str | None = None) -> list[Path]:
    """List the directories with groups: that of this package, `--config-dir`, and those of announced packages."""
    return [CONF, *([Path(config_dir)] if config_dir else []), *find_configurations()]


def find_options(folder: Path) -> list[str]:
    """List the options of one group: the names of its YAML files."""
    return sorted(path.stem for path in folder.glob("*.yaml") if path.stem not in INGREDIENTS)


def find_subgroups(folder: Path) -> list[str]:
    """List the groups within a group at any depth, such as `step/constraint`."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_dir())
    return sorted(str(name) for name in names if not INGREDIENTS & set(name.parts))


def list_choices(group: str, places: Sequence[Path]) -> list[str]:
    """List the options of a group in all places; those of `env` include the tasks tuned in this package.

    Only `algo` and the groups of Hydra contain groups. Elsewhere, folders are part of the names of options.
    """
    folders = [*(place / group for place in places), *[CONF / "tuned"] * (group == "env")]
    found = {option for folder in folders for option in find_options(folder)} | OF_HYDRA.get(group, set())
    if not group.startswith(("algo", "hydra/")):
        found |= {
            f"{name}/{option}"
            for folder in folders
            for name in find_subgroups(folder)
            for option in find_options(folder / name)
        }
    return sorted(found)


def list_parts(places: Sequence[Path]) -> list[str]:
    """List the groups of an algorithm's parts, such as `algo/advantage`."""
    return sorted({f"algo/{name}" for place in places for name in find_subgroups(place / "algo")})
