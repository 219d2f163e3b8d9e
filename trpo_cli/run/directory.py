"""A run directory, which holds everything about a run. One process writes to it; `runs/README.md` lists the files."""

from __future__ import annotations

import contextlib
import json
import logging
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml  # type: ignore[import-untyped]

from trpo_cli.errors import CheckpointError, EnvironmentFault, NewerCheckpointError, RunDirectoryError, UserError
from trpo_cli.run import checkpoint, durable
from trpo_cli.run.layout import (
    BEST,
    CHECKPOINTS,
    CONFIG,
    ENDED_EARLY,
    LOG,
    METRICS,
    SUMMARY,
    refuse_links,
    report_mismatch,
)
from trpo_cli.run.lock import LOCK, Lock

log = logging.getLogger("trpo_cli")
PACKAGES = ("trpo-cli", "torch", "gymnasium", "mujoco", "numpy", "hydra-core")


class Run:
    """A run directory, locked from construction until the context manager exits."""

    def __init__(self, directory: Path, in_sweep: bool = False) -> None:
        """Lock `directory`, which is created if necessary.

        In a sweep, errors are logged with their tracebacks, as nobody watches the terminal. Raises
        `RunDirectoryError` if another process writes to it, it is not writable, or it contains links.
        """
        self.directory, self.checkpoints = directory, directory / CHECKPOINTS
        self.saved = 0  # environment steps at the last checkpoint
        self.warnings: list[str] = []  # from before there was a log
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
            self._close = self._close.pop_all()  # released here on errors only

    @property
    def is_finished(self) -> bool:
        """Whether the run has reached its end."""
        return (self.directory / SUMMARY).exists()

    def load(self) -> dict[str, Any] | None:
        """The state in the newest undamaged checkpoint; None if the run was stopped before its first checkpoint.

        Damaged checkpoints are renamed, which `warnings` reports. Raises `CheckpointError` if all are damaged.
        """
        checkpoint.remove_temporary_files(self.checkpoints)
        metrics = self.directory / METRICS
        if not checkpoint.list_checkpoints(self.checkpoints) and not (metrics.exists() and metrics.stat().st_size):
            return None
        try:
            found = checkpoint.load_newest(self.checkpoints)
        except NewerCheckpointError:
            raise
        except CheckpointError as error:
            raise CheckpointError(
                f"{error}\nthe run cannot be resumed without one; start it again in another directory"
            ) from None
        self.saved = checkpoint.steps_of(found.path)
        checkpoint.forget_bests(self.checkpoints, after=self.saved)
        for path, damage in found.damaged.items():
            self.warnings.append(f"{damage}; it was renamed, and an older one is used")
            path.rename(path.with_name(f"{path.name}.damaged"))
        with report_mismatch(self.directory):
            self.warnings += _version_warnings(found.state.get("versions", {}))
        return found.state

    def begin(self, config: dict[str, Any]) -> None:
        """Write the configuration and start the log. A resumed run loses its summary, as it is no longer finished."""
        try:
            durable.write(self.directory / CONFIG, yaml.safe_dump(config, sort_keys=False).encode())
            self.checkpoints.mkdir(exist_ok=True)  # last, since checkpoints without a configuration are refused
            (self.directory / SUMMARY).unlink(missing_ok=True)
        except OSError as error:
            raise RunDirectoryError(f"{self.directory}: cannot be written: {error.strerror}") from error
        if not self._logged:
            self._keep_log()

    def _keep_log(self) -> None:
        try:
            handler = open_log(self.directory)
        except OSError as error:
            raise RunDirectoryError(f"{self.directory}: cannot be written: {error.strerror}") from error
        log.addHandler(handler)
        self._logged = True
        self._close.callback(handler.close)
        self._close.callback(log.removeHandler, handler)

    def save(self, state: dict[str, Any], env_steps: int, keep: int, best: bool = False) -> None:
        """Write a checkpoint, then delete all but the newest `keep`. Raises `CheckpointError` if writing fails.

        A copy of the `best` so far is kept, too. It is written first, and the one before it is deleted last.
        """
        name = f"step_{env_steps:012d}{checkpoint.SUFFIX}"
        copies = [self._bests() / name] if best else []
        checkpoint.save(self.checkpoints / name, {**state, **self.provenance}, *copies)
        self.saved = env_steps
        checkpoint.keep_newest(self.checkpoints, keep)

    def has_best(self, env_steps: int) -> bool:
        """Whether the copy of a best checkpoint is there."""
        return env_steps in map(checkpoint.steps_of, checkpoint.list_checkpoints(self.checkpoints / BEST))

    def _bests(self) -> Path:
        folder = self.checkpoints / BEST
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"{folder}: cannot be made: {error.strerror}") from error
        return folder

    def finish(self, summary: dict[str, Any]) -> None:
        """Write `summary.json`: the results, and the versions that produced them."""
        text = json.dumps({**summary, **self.provenance}, indent=2) + "\n"
        durable.write(self.directory / SUMMARY, text.encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._close, contextlib.suppress(OSError):  # a failing log must not hide the error itself
            if isinstance(error, Exception) and self._logged:  # SystemExit is reported elsewhere
                is_known = isinstance(error, UserError)
                # An environment may be the user's own code, whose traceback helps.
                is_enough = is_known and not self._in_sweep and not isinstance(error, EnvironmentFault)
                message = error if is_known else f"{type(error).__name__}: {error}"
                log.error("%s: %s", ENDED_EARLY, message, exc_info=None if is_enough else error)


def note_failure(directory: Path, problem: str) -> None:
    """Write to the log in `directory` why a run could not start."""
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(open_log(directory)) as handler:
        record = log.makeRecord(log.name, logging.ERROR, "", 0, "%s: %s", (ENDED_EARLY, problem), None)
        handler.handle(record)


def open_log(directory: Path) -> LogFile:
    """A handler that appends to `train.log`."""
    handler = LogFile(directory / LOG, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler


class LogFile(logging.FileHandler):
    """A log file whose errors are raised, so that nothing is lost silently."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        raise


def provenance() -> dict[str, Any]:
    """The versions of Python and the packages that affect results, and the git revision."""
    return {"versions": find_versions(PACKAGES), "git_revision": git_revision()}


def find_versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of Python and of the packages that are installed."""
    versions = {"python": platform.python_version()}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _version_warnings(then: dict[str, str]) -> list[str]:
    now = find_versions(then)
    return [
        f"{name} is {now.get(name)} now and was {old} before: results may differ from those of an uninterrupted run"
        for name, old in then.items()
        if now.get(name) != old
    ]


def git_revision() -> str | None:
    """The commit this program runs from, with `+changes` if files differ from it; None outside a checkout."""
    source = Path(__file__).parent
    command = ["git", "-C", str(source), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"]
    try:
        tracked = subprocess.run([*command[:3], "ls-files", "--error-unmatch", __file__], capture_output=True)
        if tracked.returncode:
            return None
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
