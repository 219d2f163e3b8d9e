"""Continue a run: which one is meant, what of its configuration may be changed, and what contradicts it.

`resume=DIR` takes everything from the run in DIR; whatever else is said must agree with it. `resume=auto` is for jobs
that are submitted again as they were: the same command line continues the run that it began.
"""

from __future__ import annotations

import copy
import hashlib
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, get_args

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from trpo_cli.cli.command_line import OPEN
from trpo_cli.config.composed import Node
from trpo_cli.config.settings import flat
from trpo_cli.errors import ConfigError, RunDirectoryError, did_you_mean
from trpo_cli.run.layout import CHECKPOINTS, CONFIG, METRICS, SWEEP, read_config, suggest_run
from trpo_cli.schedules import Falling
from trpo_cli.shell import shell_argument, short_path, start_directory

AUTO = "auto"
MAY_CHANGE = (
    "total_steps",
    "eval.",
    "checkpoint.",
    "fault_patience",
    "algo.max_rejected",
    "env.step_timeout",
    "sampler.num_threads",
    "logger",
    "choices.logger",
)
"""Keys, or how they begin, on which no parameter depends but through how long the run is."""
CHOICE = "choices."  # how the keys begin under which a configuration keeps the option of each group
ONE_RUN = "resume: a directory is one run, and this is a sweep; resume=auto continues each of its jobs"
SHOWN = 10  # differences in a message


class Plan(NamedTuple):
    """How a run begins, or goes on."""

    config: Node
    continues: bool
    changes: list[str] = []  # noqa: RUF012  of the configuration, in words
    rescheduled: list[str] = []  # noqa: RUF012  keys of decays that end elsewhere now
    planned: int = 0  # steps, before


def directed(overrides: Sequence[str], multirun: bool = False) -> list[str]:
    """The overrides of a command line, with the run directory that `resume=DIR` means, so that Hydra composes them.

    It composes what the defaults make of them, which nobody looks at, and the saved run may have other parts. So keys
    may be new, and options that agree with the saved ones are left out.

    Raises `ConfigError` if another is named too, several runs would be one or an option is another one,
    `RunDirectoryError` if the directory holds no run.
    """
    resume = resumed_run(overrides)
    if resume == "":
        raise ConfigError("resume: is empty; it takes a run directory, auto, or null for a new run")
    if resume in (None, "null", AUTO):
        return list(overrides)
    if (Path(resume) / SWEEP).is_file():
        raise ConfigError(
            f"resume: {resume} holds a sweep: its command goes on with {shell_argument('sweep.resume=', Path(resume))}"
        )
    if multirun:
        raise ConfigError(ONE_RUN)
    if any(text.startswith("hydra.run.dir=") for text in overrides):
        raise ConfigError(f"hydra.run.dir: resume={resume} says already where the run is")
    if not (Path(resume) / CONFIG).is_file():
        word = resume.lower() in ("auto", "true", "yes", "last", "latest", "newest")
        hint = "; resume=auto goes on with the run of the same command line" if word else suggest_run(Path(resume))
        raise RunDirectoryError(f"resume: {resume} holds no run: there is no {CONFIG} in it{hint}")
    value = as_value(resume)
    others = [text for text in overrides if not _is_resume(text)]
    return [f"resume={value}", f"hydra.run.dir={value}", *_composable(Path(resume), others)]


def resumed_run(overrides: Sequence[str]) -> str | None:
    """What `resume` is set to, if it is."""
    words = [text for text in overrides if _is_resume(text)]
    return unquoted(words[-1].partition("=")[2]) if words else None


def _composable(directory: Path, overrides: Sequence[str]) -> list[str]:
    """The overrides of keys, as Hydra takes them whatever parts it composes; options must be the saved ones."""
    chosen = read_config(directory)["choices"]
    keys: list[str] = []
    wrong: list[str] = []
    for override in _parsed(overrides):
        key = override.key_or_group
        if key.startswith(("hydra", "plugins", "logger")):
            keys.append(str(override.input_line))
        elif not _is_group(key, chosen):
            keys.append(f"++{str(override.input_line).lstrip('+')}")
        elif override.value() != chosen.get(key):
            wrong.extend(differences(chosen.get(key), override.value(), key).values())
    if wrong:
        raise _contradiction(directory, wrong)
    return keys


def _parsed(overrides: Sequence[str]) -> list[Override]:
    """Raises `ConfigError` for one that is more or less than a value."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    for override in parsed:
        if override.is_delete() or override.is_sweep_override():
            raise ConfigError(f"{override.input_line}: a run that is resumed keeps its one value of each key")
    return parsed


def _is_group(key: str, chosen: Mapping[str, Any]) -> bool:
    return "/" in key or key in chosen


def _is_resume(text: str) -> bool:
    return text.lstrip("+").startswith("resume=")


def unquoted(text: str) -> str:
    """Quotes around it are Hydra's, others belong to the name."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def as_value(text: str) -> str:
    """Any text as Hydra takes it behind `=`."""
    return "'" + text.replace("'", r"\'") + "'"


def place(arguments: Sequence[str]) -> str:
    """What the directory of a new run or sweep is called, `${place:}` in configurations: the time.

    With `resume=auto` it is a word that is always the same for this command line, but for what may change.
    """
    if f"resume={AUTO}" not in arguments:
        return datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
    lasting = sorted(text for text in arguments if not text.lstrip("+").startswith(("resume=", "sweep.", *MAY_CHANGE)))
    return f"auto_{hashlib.sha256(repr(lasting).encode()).hexdigest()[:10]}"


# Cached with the configuration, it is the same for all jobs of a sweep, in whatever process they run.
OmegaConf.register_new_resolver("place", lambda: place(sys.argv[1:]), use_cache=True, replace=True)


def planned(directory: Path, given: Node, overrides: Sequence[str]) -> Plan:
    """What is to happen in `directory`, where `overrides` were said, which compose to `given`.

    Raises `RunDirectoryError` if there is a run and none was to be resumed, or none and one was; `ConfigError` if what
    was said contradicts the run that is there, or does not allow the code that it needs.
    """
    resume, given = given["resume"], {**given, "resume": None}
    if resume not in (None, AUTO) and (start_directory() / resume).resolve() != directory.resolve():
        raise ConfigError(ONE_RUN)
    begun = (directory / CONFIG).exists()
    if not begun and resume not in (None, AUTO):
        raise RunDirectoryError(f"resume: {short_path(directory)} holds no run: it has no {CONFIG}")
    if not begun and (left := [name for name in (METRICS, CHECKPOINTS) if (directory / name).exists()]):
        raise RunDirectoryError(
            f"{short_path(directory)} holds {' and '.join(left)} of a run, whose {CONFIG} is gone: "
            "put that back, or begin elsewhere with hydra.run.dir=DIR"
        )
    if begun and resume is None:
        raise RunDirectoryError(
            f"{short_path(directory)} holds a run already: {shell_argument('resume=', directory)} continues it, "
            "and hydra.run.dir=DIR begins another"
        )
    if not begun and (directory / SWEEP).exists():
        raise RunDirectoryError(
            f"{short_path(directory)} holds a sweep: hydra.run.dir=DIR begins a run elsewhere, "
            f"and with -m {shell_argument('sweep.resume=', directory)} continues the sweep"
        )
    return _continued(directory, given, None if resume == AUTO else overrides) if begun else Plan(given, False)


def _continued(directory: Path, given: Node, overrides: Sequence[str] | None) -> Plan:
    """The plan for a run that is there; with `overrides`, these alone are asked of it, otherwise all of `given`."""
    saved = read_config(directory)
    plugins = saved.get("plugins") or []
    if missing := [name for name in plugins if name not in given["plugins"]]:
        raise ConfigError(
            f"plugins: this run was made with code of {', '.join(missing)}; if you trust it, say so again: "
            f"plugins=[{','.join(plugins)}]"
        )
    wanted = {**(given if overrides is None else changed(saved, overrides)), "plugins": plugins}
    found = differences(saved, wanted := with_logger(wanted, given))
    if wrong := [text for key, text in _roots(found).items() if not key.startswith(MAY_CHANGE)]:
        raise _contradiction(directory, wrong)
    rescheduled = schedules(wanted) if "total_steps" in found else []
    changes = [text for key, text in found.items() if key.partition(".")[0] != "logger"]  # its choice says it
    return Plan(wanted, True, changes, rescheduled, saved.get("total_steps", 0))


def with_logger(node: Node, given: Node) -> Node:
    """`node` with the logger of this command line alone: a directory does not decide whom the program talks to."""
    own = {key: value for key, value in node.items() if key != "logger"}
    own["choices"] = {**node["choices"], "logger": given["choices"].get("logger")}
    return own | {key: given[key] for key in ("logger",) if key in given}


def _contradiction(directory: Path, wrong: Sequence[str]) -> ConfigError:
    """What to say of so many differences."""
    more = [f"and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
    return ConfigError(
        "\n  ".join([f"{short_path(directory)} holds a run that was configured otherwise:", *wrong[:SHOWN], *more])
        + f"\n{shell_argument('resume=', directory)} alone continues it as it was; "
        + "without resume, hydra.run.dir=DIR begins another"
    )


def changed(saved: Node, overrides: Sequence[str]) -> Node:
    """The saved configuration with overrides put into it: keys into their places, options into `choices`.

    Raises `ConfigError` for a key that is not there, or more or less than a value.
    """
    node = copy.deepcopy(saved)
    for override in _parsed(overrides):
        key = override.key_or_group
        if key.startswith(("hydra", "resume", "plugins", "logger", "sweep.")):
            continue
        if _is_group(key, node["choices"]):
            node["choices"][key] = override.value()
        else:
            _refuse_unknown(saved, key)
            node = _updated(node, key, override)
    return node


def _refuse_unknown(saved: Node, key: str) -> None:
    """Raise `ConfigError` for a key that the saved run has no use for, with the nearest that it has."""
    if key.startswith((*MAY_CHANGE, f"{OPEN}.")):  # what an earlier version has not saved, or the environment takes
        return
    node: Any = saved
    above = ""
    for name in key.split("."):
        if isinstance(node, Mapping) and name not in node:
            elsewhere = [known for known, _ in flat(saved) if known.endswith(f".{name}")]
            near = f"; did you mean {' or '.join(map(repr, elsewhere))}?" if elsewhere else ""
            raise ConfigError(f"{key}: no such key{near or did_you_mean(name, map(str, node), above)}")
        node, above = node[name] if isinstance(node, Mapping) else None, f"{above}{name}."


def _updated(node: Node, key: str, override: Override) -> Node:
    config = OmegaConf.create({"root": node})
    OmegaConf.update(config, f"root.{key}", override.value(), merge=True, force_add=True)
    updated: Any = OmegaConf.to_container(config.root)
    return updated  # type: ignore[no-any-return]


def differences(saved: Any, given: Any, key: str = "") -> dict[str, str]:
    """`algo.delta: saved 0.01, given 0.02` and the like, by key, for every leaf that is not equal."""
    if isinstance(saved, Mapping) and isinstance(given, Mapping):
        names = [*saved, *(name for name in given if name not in saved)]
        inner = (differences(saved.get(name), given.get(name), f"{key}.{name}" if key else str(name)) for name in names)
        return {name: text for found in inner for name, text in found.items()}
    if same(saved, given):
        return {}
    old, new = ("null" if value is None else value for value in (saved, given))
    return {key: f"{key.removeprefix(CHOICE)}: saved {old}, given {new}"}


def same(one: Any, other: Any) -> bool:
    """Whether two settings are equal; a NaN is equal to itself."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other or (one != one and other != other))


def _roots(found: Mapping[str, str]) -> dict[str, str]:
    """The differences, without those that come with another option: of its parts, and of its keys."""
    options = [key.removeprefix(CHOICE) for key in found if key.startswith(CHOICE)]
    below = tuple(
        f"{prefix}{option}{separator}" for option in options for prefix, separator in ((CHOICE, "/"), ("", "."))
    )
    return {key: text for key, text in found.items() if not key.startswith(below)}


def schedules(node: Any, key: str = "") -> list[str]:
    """The keys of everything that decays to 0 at `total_steps`."""
    if isinstance(node, Mapping):
        inner = (schedules(value, f"{key}.{name}" if key else str(name)) for name, value in node.items())
        return [name for found in inner for name in found]
    return [key] if key.endswith("decay") and node in get_args(Falling) else []
