"""A job of a sweep: a run with its own values of the swept keys, in a directory named after them."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trpo_cli.cli.resume import as_value, unquote
from trpo_cli.config.settings import NAMELESS
from trpo_cli.errors import ConfigError, RunDirectoryError
from trpo_cli.run.layout import CONFIG, SWEEP, directory_name

UNNAMED_JOB = "job"  # the name of a job without overrides
SWEEPING = ("hydra/launcher=", "hydra/sweeper", "hydra.launcher.", "hydra.sweeper.")  # prefixes
LONGEST = 200  # bytes of a name; file systems allow 255


@dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    name: str
    overrides: tuple[str, ...]
    directory: Path


def make_jobs(combinations: Sequence[Sequence[str]], directory: Path) -> list[Job]:
    """The jobs with these lists of overrides. Raises `ConfigError` if there are none, or two are the same."""
    if not combinations:
        raise ConfigError("nothing to run: one of the keys has no values, for example an empty range")
    common = set.intersection(*map(set, combinations))
    swept = {_key(text) for texts in combinations for text in texts if text not in common}
    found = [Job(name, tuple(texts), directory / name) for texts in combinations for name in [_name(texts, swept)]]
    name, times = Counter(job.name for job in found).most_common(1)[0]
    if times > 1:
        raise ConfigError(f"{name}: this job occurs {times} times, but each combination of values is one run")
    return found


def read_status(directory: Path) -> tuple[str, list[Job]]:
    """The command and the jobs in the status file of `directory`; empty if it cannot be read."""
    try:
        content = json.loads((directory / SWEEP).read_text(encoding="utf-8"))
        found = [(str(job["name"]), tuple(map(str, job["overrides"]))) for job in content["jobs"]]
        command = str(content["command"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", []
    safe = [(name, texts) for name, texts in found if re.fullmatch(r"[\w,=+-][\w.,=+-]*", name)]
    return command, [Job(name, texts, directory / name) for name, texts in safe]


def _name(overrides: Sequence[str], swept: set[str]) -> str:
    """The name of the job's directory. It depends neither on the order of the overrides nor on the machine."""
    telling = [text.lstrip("+") for text in overrides if _key(text) in swept or not _key(text).startswith(NAMELESS)]
    full = ",".join(sorted(telling)) or UNNAMED_JOB
    name = directory_name(full)
    if name == full.replace("/", ".") and len(name) <= LONGEST:
        return name
    return f"{name[:LONGEST]}-{hashlib.sha256(full.encode()).hexdigest()[:8]}"


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def with_sweep_directory(arguments: Sequence[str]) -> list[str]:
    """The arguments of the command line, with `hydra.sweep.dir` set to the directory in `sweep.resume=DIR`.

    Raises `ConfigError` if both are given, `RunDirectoryError` if the directory holds no sweep.
    """
    words = [text for text in arguments if text.lstrip("+").startswith("sweep.resume=")]
    resume = unquote(words[-1].partition("=")[2]) if words else "null"
    if resume == "null":
        return list(arguments)
    if any(text.startswith("hydra.sweep.dir=") for text in arguments):
        raise ConfigError(f"hydra.sweep.dir: leave it out, since sweep.resume={resume} already says where the sweep is")
    if not (Path(resume) / SWEEP).is_file():
        run = f"; resume={resume} resumes the run in it" if (Path(resume) / CONFIG).is_file() else ""
        raise RunDirectoryError(f"sweep.resume: {resume} holds no sweep, since it has no {SWEEP}{run}")
    others, value = [text for text in arguments if text not in words], as_value(resume)
    return [*others, f"sweep.resume={value}", f"hydra.sweep.dir={value}"]


def refuse_sweep_keys(sweep: Mapping[str, Any], of_hydra: Sequence[str]) -> None:
    """Raise `ConfigError` if a single run is given keys of a sweep: `sweep.*` or Hydra's own."""
    if any(text.startswith("hydra.sweep.dir=") for text in of_hydra) and not sweep["resume"]:
        raise ConfigError("hydra.sweep.dir: applies to sweeps, with -m; a single run takes hydra.run.dir=DIR")
    given = [text for text in of_hydra if text.lstrip("+").startswith(SWEEPING)]
    given += [f"sweep.{name}" for name, value in sweep.items() if value]
    if given:
        raise ConfigError(f"{given[0]}: applies to sweeps only; add -m (--multirun) to run one")
