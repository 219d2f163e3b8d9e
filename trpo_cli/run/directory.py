"""A run directory: written to by one process at a time, holding all that a run is. `runs/README.md` names each file."""

from __future__ import annotations

import contextlib
import json
import logging
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml  # type: ignore[import-untyped]

from trpo_cli.errors import CheckpointError, EnvironmentFault, NewerCheckpointError, RunDirectoryError, UserError
from trpo_cli.run import checkpoint, durable
from trpo_cli.run.layout import CHECKPOINTS, CONFIG, ENDED_EARLY, LOG, METRICS, SUMMARY, fitting, refuse_links
from trpo_cli.run.lock import LOCK, Lock

log = logging.getLogger("trpo_cli")
PACKAGES = ("trpo-cli", "torch", "gymnasium", "mujoco", "numpy", "hydra-core")


class Run:
    """Use as a context manager: it is locked from its making until it closes."""

    def __init__(self, directory: Path, in_sweep: bool = False) -> None:
        """Take hold of `directory`, which is made if need be.

        In a sweep everything is logged there, with tracebacks, since nobody looks on.
        Raises `RunDirectoryError` if another process writes to it, it cannot be written to, or links lead out of it.
        """
        self.directory, self.checkpoints = directory, directory / CHECKPOINTS
        self.saved = 0  # environment steps at the last checkpoint
        self.warnings: list[str] = []  # that came up before there was a log
        self.provenance = provenance()
        self._logged, self._in_sweep = False, in_sweep
        self._close = contextlib.ExitStack()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._close.callback(Lock(directory / LOCK).release)
        except OSError as error:
            raise RunDirectoryError(f"{directory}: cannot be written: {error.strerror}") from error
        with self._close:
            refuse_links(directory)
            if in_sweep:
                self._keep_log()
            self._close = self._close.pop_all()  # only an error lets go of it here

    @property
    def finished(self) -> bool:
        """Whether it came to its end."""
        return (self.directory / SUMMARY).exists()

    def load(self) -> dict[str, Any] | None:
        """What its newest whole checkpoint holds; None if it was stopped before it saved anything.

        Damaged ones are put aside, and `warnings` tells of them. Raises `CheckpointError` if none is whole.
        """
        checkpoint.sweep(self.checkpoints)
        metrics = self.directory / METRICS
        if not checkpoint.listed(self.checkpoints) and not (metrics.exists() and metrics.stat().st_size):
            return None
        try:
            found = checkpoint.load_newest(self.checkpoints)
        except NewerCheckpointError:
            raise
        except CheckpointError as error:
            raise CheckpointError(
                f"{error}\nwithout one a run cannot go on: begin it anew in another directory"
            ) from None
        self.saved = int(found.path.stem.removeprefix("step_"))
        for path, damage in found.damaged.items():
            self.warnings.append(f"{damage}; put aside, an older one is used")
            path.rename(path.with_name(f"{path.name}.damaged"))
        with fitting(self.directory):
            self.warnings += _other_versions(found.state.get("versions", {}), self.provenance["versions"])
        return found.state

    def begin(self, config: dict[str, Any]) -> None:
        """Write the configuration, for the first time or with changes, and begin to keep the log.

        A run that goes on has no end yet.
        """
        try:
            durable.write(self.directory / CONFIG, yaml.safe_dump(config, sort_keys=False).encode())
            self.checkpoints.mkdir(exist_ok=True)  # after that: checkpoints without a configuration are refused
            (self.directory / SUMMARY).unlink(missing_ok=True)
        except OSError as error:
            raise RunDirectoryError(f"{self.directory}: cannot be written: {error.strerror}") from error
        if not self._logged:
            self._keep_log()

    def _keep_log(self) -> None:
        try:
            handler = log_file(self.directory)
        except OSError as error:
            raise RunDirectoryError(f"{self.directory}: cannot be written: {error.strerror}") from error
        log.addHandler(handler)
        self._logged = True
        self._close.callback(handler.close)
        self._close.callback(log.removeHandler, handler)

    def save(self, state: dict[str, Any], env_steps: int, keep: int) -> None:
        """Write a checkpoint, then drop the oldest beyond `keep`. Raises `CheckpointError` if it cannot be written."""
        checkpoint.save(self.checkpoints / f"step_{env_steps:012d}{checkpoint.SUFFIX}", {**state, **self.provenance})
        self.saved = env_steps
        for old in checkpoint.listed(self.checkpoints)[:-keep]:
            old.unlink()

    def finish(self, summary: dict[str, Any]) -> None:
        """Write `summary.json`: what was reached, and with which versions."""
        text = json.dumps({**summary, **self.provenance}, indent=2) + "\n"
        durable.write(self.directory / SUMMARY, text.encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._close, contextlib.suppress(OSError):  # a log that fails now would hide what went wrong before
            if isinstance(error, Exception) and self._logged:  # SystemExit was asked for, and is told of
                said = isinstance(error, UserError)
                enough = said and not self._in_sweep and not isinstance(error, EnvironmentFault)  # the user's own code
                message = error if said else f"{type(error).__name__}: {error}"
                log.error("%s: %s", ENDED_EARLY, message, exc_info=None if enough else error)


def note_failure(directory: Path, problem: str) -> None:
    """Have the log in `directory` tell of a run that could not even begin."""
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(log_file(directory)) as handler:
        record = log.makeRecord(log.name, logging.ERROR, "", 0, "%s: %s", (ENDED_EARLY, problem), None)
        handler.handle(record)


def log_file(directory: Path) -> LogFile:
    """`train.log`, as far as it goes already."""
    handler = LogFile(directory / LOG, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler


class LogFile(logging.FileHandler):
    """A log that cannot be written is an error, as everything is that would be lost."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        raise


def provenance() -> dict[str, Any]:
    """The versions of what computes, and the git revision."""
    versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    return {"versions": versions, "git_revision": git_revision()}


def _other_versions(then: dict[str, str], now: dict[str, str]) -> list[str]:
    return [
        f"{name} is {now.get(name)} and was {old} before: the numbers may differ from those of an uninterrupted run"
        for name, old in then.items()
        if now.get(name) != old
    ]


def git_revision() -> str | None:
    """The commit of the source tree this program runs from, `+changes` if files differ; None outside a checkout."""
    source = Path(__file__).parent
    command = ["git", "-C", str(source), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"]
    try:
        tracked = subprocess.run([*command[:3], "ls-files", "--error-unmatch", __file__], capture_output=True)
        if tracked.returncode:
            return None
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
