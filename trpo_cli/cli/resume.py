"""Resuming a run: which run is meant, which keys may change, and which contradict its configuration.

`resume=DIR` takes everything from the run in DIR, and other overrides must agree with it. `resume=auto` is for jobs
that are resubmitted unchanged: the same command line continues the run that it started.
"""

from __future__ import annotations

import copy
import hashlib
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from trpo_cli.cli.command_line import OPEN, OPEN_SCHEDULES
from trpo_cli.config.composed import Node
from trpo_cli.config.scheduling import list_scheduled_keys
from trpo_cli.config.settings import LATER, MAY_CHANGE, flatten, format_setting
from trpo_cli.errors import ConfigError, RunDirectoryError, did_you_mean
from trpo_cli.run.layout import CHECKPOINTS, CONFIG, METRICS, SWEEP, read_config, suggest_run
from trpo_cli.shell import shell_argument, short_path, start_directory

AUTO = "auto"
CHOICE = "choices."  # the prefix under which a configuration stores the option of each group
ONE_RUN = "resume: a directory holds one run, but this is a sweep; resume=auto continues each of its jobs"
SHOWN = 10  # differences in a message


class Plan(NamedTuple):
    """How a run starts or resumes."""

    config: Node
    continues: bool
    changes: list[str] = []  # noqa: RUF012  descriptions of the keys that change
    rescheduled: list[str] = []  # noqa: RUF012  keys of schedules whose end has moved
    planned: int = 0  # the previous total_steps


def expand_resume(overrides: Sequence[str], multirun: bool = False) -> list[str]:
    """Return the overrides of a command line in a form that Hydra composes, with the run directory of `resume=DIR`.

    Hydra composes them with the defaults, but the saved run may have other parts, and its configuration is used
    instead. So keys may be new here, and options that agree with the saved ones are removed.

    Raises `ConfigError` if another run directory is named too, if the command line asks for several runs, or if an
    option differs from the saved one; `RunDirectoryError` if the directory holds no run.
    """
    overrides = [_quote_source(text) for text in overrides]
    resume = read_resume(overrides)
    if resume == "":
        raise ConfigError("resume: is empty; it takes a run directory, auto, or null for a new run")
    if resume in (None, "null", AUTO):
        return list(overrides)
    if (Path(resume) / SWEEP).is_file():
        again = shell_argument("sweep.resume=", Path(resume))
        raise ConfigError(f"resume: {resume} holds a sweep: its command continues it with {again}")
    if multirun:
        raise ConfigError(ONE_RUN)
    if any(text.startswith("hydra.run.dir=") for text in overrides):
        raise ConfigError(f"hydra.run.dir: leave it out, since resume={resume} already says where the run is")
    if not (Path(resume) / CONFIG).is_file():
        word = resume.lower() in ("auto", "true", "yes", "last", "latest", "newest")
        hint = "; resume=auto resumes the run of the same command line" if word else suggest_run(Path(resume))
        raise RunDirectoryError(f"resume: {resume} holds no run: there is no {CONFIG} in it{hint}")
    value = as_value(resume)
    others = [text for text in overrides if not _is_resume(text)]
    return [f"resume={value}", f"hydra.run.dir={value}", *_make_composable(Path(resume), others)]


def read_resume(overrides: Sequence[str]) -> str | None:
    """Return the value given to `resume`, or None."""
    words = [text for text in overrides if _is_resume(text)]
    return unquote(words[-1].partition("=")[2]) if words else None


def _make_composable(directory: Path, overrides: Sequence[str]) -> list[str]:
    """Return the overrides of keys in a form that Hydra accepts with any parts; options must equal the saved ones."""
    chosen = read_config(directory)["choices"]
    keys: list[str] = []
    wrong: list[str] = []
    for override in _parse(overrides):
        key = override.key_or_group
        if key.startswith(("hydra", "plugins", "logger")):
            keys.append(str(override.input_line))
        elif not _is_group(key, chosen):
            keys.append(f"++{str(override.input_line).lstrip('+')}")
        elif override.value() != chosen.get(key):
            wrong.extend(find_differences(chosen.get(key), override.value(), key).values())
    if wrong:
        raise _describe_contradiction(directory, wrong)
    return keys


def _parse(overrides: Sequence[str]) -> list[Override]:
    """Parse overrides. Raises `ConfigError` for a deletion or a sweep."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    for override in parsed:
        if override.is_delete() or override.is_sweep_override():
            raise ConfigError(f"{override.input_line}: a resumed run keeps one value for each key")
    return parsed


def _is_group(key: str, chosen: Mapping[str, Any]) -> bool:
    return "/" in key or key in chosen


def _is_resume(text: str) -> bool:
    return text.lstrip("+").startswith("resume=")


def _quote_source(text: str) -> str:
    """Quote the directory in `init_from` if Hydra would take its name, such as that of a job, for several values."""
    key, _, value = text.partition("=")
    is_odd = key.lstrip("+") == "init_from" and re.search(r"[^\w./-]", value) and Path(unquote(value)).is_dir()
    return f"{key}={as_value(unquote(value))}" if is_odd else text


def unquote(text: str) -> str:
    """Strip the quotes of Hydra's syntax around a value; quotes inside it belong to the value."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def as_value(text: str) -> str:
    """Quote any text so that Hydra accepts it as a value."""
    return "'" + text.replace("'", r"\'") + "'"


def name_directory(arguments: Sequence[str]) -> str:
    """Name the directory of a new run or sweep after the time; `${place:}` in configurations.

    With `resume=auto` the name is a hash of the command line without the keys that may change.
    """
    if f"resume={AUTO}" not in arguments:
        return datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
    lasting = sorted(text for text in arguments if not text.lstrip("+").startswith(("resume=", "sweep.", *MAY_CHANGE)))
    return f"auto_{hashlib.sha256(repr(lasting).encode()).hexdigest()[:10]}"


# The value is cached with the configuration, so it is the same for all jobs of a sweep, in every process.
OmegaConf.register_new_resolver("place", lambda: name_directory(sys.argv[1:]), use_cache=True, replace=True)


def plan_run(directory: Path, given: Node, overrides: Sequence[str]) -> Plan:
    """Decide whether a run starts or resumes in `directory`; `given` is what the `overrides` compose to.

    Raises `RunDirectoryError` if the directory holds a run although none was to be resumed, or holds none although one
    was; `ConfigError` if the command line contradicts the saved run, or does not allow the plugins that it needs.
    """
    resume, given = given["resume"], {**given, "resume": None}
    if resume not in (None, AUTO) and (start_directory() / resume).resolve() != directory.resolve():
        raise ConfigError(ONE_RUN)
    begun = (directory / CONFIG).exists()
    if not begun and resume not in (None, AUTO):
        raise RunDirectoryError(f"resume: {short_path(directory)} holds no run: it has no {CONFIG}")
    if not begun and (left := [name for name in (METRICS, CHECKPOINTS) if (directory / name).exists()]):
        raise RunDirectoryError(
            f"{short_path(directory)} holds {' and '.join(left)} of a run, but not its {CONFIG}: "
            "restore that, or start elsewhere with hydra.run.dir=DIR"
        )
    if begun and resume is None:
        raise RunDirectoryError(
            f"{short_path(directory)} already holds a run: {shell_argument('resume=', directory)} continues it, "
            "and hydra.run.dir=DIR starts another"
        )
    if not begun and (directory / SWEEP).exists():
        raise RunDirectoryError(
            f"{short_path(directory)} holds a sweep: hydra.run.dir=DIR starts a run elsewhere, "
            f"and with -m {shell_argument('sweep.resume=', directory)} continues the sweep"
        )
    return _plan_resume(directory, given, None if resume == AUTO else overrides) if begun else Plan(given, False)


def _plan_resume(directory: Path, given: Node, overrides: Sequence[str] | None) -> Plan:
    """Plan to resume a saved run. The `overrides` must agree with it or, if they are None, all of `given`."""
    saved = read_config(directory)
    plugins = saved.get("plugins") or []
    if missing := [name for name in plugins if name not in given["plugins"]]:
        raise ConfigError(
            f"plugins: this run uses code from {', '.join(missing)}; if you trust it, allow it again: "
            f"plugins=[{','.join(plugins)}]"
        )
    wanted = {**(given if overrides is None else override_saved(saved, overrides)), "plugins": plugins}
    found = find_differences(saved, wanted := with_logger(without_later(wanted, dict(flatten(saved))), given))
    if wrong := [text for key, text in _drop_consequences(found).items() if not key.startswith(MAY_CHANGE)]:
        raise _describe_contradiction(directory, wrong)
    rescheduled = list_scheduled_keys(wanted) if "total_steps" in found else []
    # Changes of the logger's option are listed already.
    changes = [text for key, text in found.items() if key.partition(".")[0] != "logger"]
    return Plan(wanted, True, changes, rescheduled, saved.get("total_steps", 0))


def without_later(node: Node, had: Collection[str], above: str = "") -> Node:
    """Return `node` without the keys of `LATER` that have their defaults, unless the saved run `had` them."""
    kept: Node = {}
    for name, value in node.items():
        key = f"{above}{name}"
        inner = without_later(value, had, f"{key}.") if isinstance(value, dict) and value else value
        if (inner != {} or value == {}) and (key in had or key not in LATER or value != LATER[key]):
            kept[name] = inner
    return kept


def with_logger(node: Node, given: Node) -> Node:
    """Return `node` with the logger of this command line, since a directory must not decide where data is sent."""
    own = {key: value for key, value in node.items() if key != "logger"}
    own["choices"] = {**node["choices"], "logger": given["choices"].get("logger")}
    return own | {key: given[key] for key in ("logger",) if key in given}


def _describe_contradiction(directory: Path, wrong: Sequence[str]) -> ConfigError:
    """Describe the first few differences that forbid a resume."""
    more = [f"and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
    return ConfigError(
        "\n  ".join([f"{short_path(directory)} holds a run that was configured differently:", *wrong[:SHOWN], *more])
        + f"\n{shell_argument('resume=', directory)} without other overrides continues it unchanged; "
        + "without resume, hydra.run.dir=DIR starts another"
    )


def override_saved(saved: Node, overrides: Sequence[str]) -> Node:
    """Apply overrides to a saved configuration: keys in place, options in `choices`.

    Raises `ConfigError` for a key that does not exist, a deletion or a sweep.
    """
    node = copy.deepcopy(saved)
    for override in _parse(overrides):
        key = override.key_or_group
        if key.startswith(("hydra", "resume", "plugins", "logger", "sweep.")):
            continue
        if _is_group(key, node["choices"]):
            node["choices"][key] = override.value()
        else:
            _refuse_unknown(saved, key)
            node = _update(node, key, override)
    return node


def _refuse_unknown(saved: Node, key: str) -> None:
    """Raise `ConfigError` for a key that the saved run does not have, suggesting the nearest one."""
    # Earlier versions may not have saved it, or it is an argument of the environment.
    if key.startswith((*MAY_CHANGE, *LATER, f"{OPEN}.")) or OPEN_SCHEDULES.match(key):
        return
    node: Any = saved
    above = ""
    for name in key.split("."):
        if isinstance(node, Mapping) and name not in node:
            elsewhere = [
                known for known, _ in flatten(saved) if known.endswith(f".{name}") and ".schedule." not in known
            ]
            near = f"; did you mean {' or '.join(map(repr, elsewhere))}?" if elsewhere else ""
            raise ConfigError(f"{key}: no such key{near or did_you_mean(name, map(str, node), above)}")
        node, above = node[name] if isinstance(node, Mapping) else None, f"{above}{name}."


def _update(node: Node, key: str, override: Override) -> Node:
    config = OmegaConf.create({"root": node})
    OmegaConf.update(config, f"root.{key}", override.value(), merge=True, force_add=True)
    updated: Any = OmegaConf.to_container(config.root)
    return updated  # type: ignore[no-any-return]


def find_differences(saved: Any, given: Any, key: str = "") -> dict[str, str]:
    """Describe every leaf that differs, by key: `algo.delta: saved 0.01, given 0.02`."""
    saved = {} if saved is None and isinstance(given, Mapping) else saved  # a section that earlier versions lack
    if isinstance(saved, Mapping) and isinstance(given, Mapping):
        names = [*saved, *(name for name in given if name not in saved)]
        above = f"{key}." if key else ""
        inner = (find_differences(saved.get(name), given.get(name), f"{above}{name}") for name in names)
        return {name: text for found in inner for name, text in found.items()}
    if are_equal(saved, given):
        return {}
    return {key: f"{key.removeprefix(CHOICE)}: saved {format_setting(saved)}, given {format_setting(given)}"}


def are_equal(one: Any, other: Any) -> bool:
    """Whether two settings are equal; a NaN is equal to itself."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(are_equal, one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(are_equal(one[key], other[key]) for key in one)
    return bool(one == other or (one != one and other != other))


def _drop_consequences(found: Mapping[str, str]) -> dict[str, str]:
    """Drop the differences that follow from a different option: those of its parts and keys."""
    options = [key.removeprefix(CHOICE) for key in found if key.startswith(CHOICE)]
    below = tuple(
        f"{prefix}{option}{separator}" for option in options for prefix, separator in ((CHOICE, "/"), ("", "."))
    )
    return {key: text for key, text in found.items() if not key.startswith(below)}
