"""Where the configuration lies, and which groups and options are in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trpo_cli.config.plugins import configurations

_PACKAGE = Path(__file__).resolve().parent.parent
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
"""The configuration: inside the package in a wheel, beside it in a source tree."""

PART_GROUPS = ("algo", "env", "sampler", "policy", "critic")
GROUPS = (*PART_GROUPS, "experiment", "logger")
OF_SWEEPS = ("hydra/launcher", "hydra/sweeper", "hydra/sweeper/sampler", "hydra/sweeper/pruner")
OF_HYDRA = {"hydra/launcher": {"basic", "joblib", "ray", "submitit_local"}}
"""Options that are Hydra's, and of its plugins."""
INGREDIENTS = {"base"}  # what options are made of, and no options themselves


def roots(config_dir: str | None = None) -> list[Path]:
    """Every directory with groups in it: ours, that of `--config-dir`, those of packages that announce themselves."""
    return [CONF, *([Path(config_dir)] if config_dir else []), *configurations()]


def options(folder: Path) -> list[str]:
    """The options of one group: the names of its YAML files."""
    return sorted(path.stem for path in folder.glob("*.yaml") if path.stem not in INGREDIENTS)


def subgroups(folder: Path) -> list[str]:
    """The names of the groups within a group at any depth, `step/constraint` for one."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_dir())
    return sorted(str(name) for name in names if not INGREDIENTS & set(name.parts))


def choices(group: str, places: Sequence[Path]) -> list[str]:
    """The options of a group in all places; those of `env` include every task with tuned settings.

    Only an algorithm and Hydra's groups have groups in them: in others, folders belong to names.
    """
    folders = [place / name for place in places for name in (group, *["tuned"] * (group == "env"))]
    found = {option for folder in folders for option in options(folder)} | OF_HYDRA.get(group, set())
    if not group.startswith(("algo", "hydra/")):
        found |= {
            f"{name}/{option}" for folder in folders for name in subgroups(folder) for option in options(folder / name)
        }
    return sorted(found)


def parts(places: Sequence[Path]) -> list[str]:
    """The groups of an algorithm's parts, `algo/advantage` for one."""
    return sorted({f"algo/{name}" for place in places for name in subgroups(place / "algo")})
