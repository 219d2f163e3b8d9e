"""Error handling of the commands: short messages, and no empty directories left behind."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from trpo_cli.cli.mistakes import describe_error, explain
from trpo_cli.errors import ConfigError, UserError
from trpo_cli.memory import explain_out_of_memory
from trpo_cli.run.lock import LOCK, holder
from trpo_cli.run.signals import ExitAtOnce
from trpo_cli.shell import start_directory, started_in

FULL_ERROR = "HYDRA_FULL_ERROR"


def report_errors(command: Callable[[], None]) -> Callable[[], None]:
    """Decorate a command so that an error of the user prints a few lines to standard error and exits with status 1.

    Any other error is a bug and keeps its traceback. With HYDRA_FULL_ERROR=1, all errors do.
    """

    @functools.wraps(command)
    def main() -> None:
        if os.environ.get(FULL_ERROR, "0") != "0":
            with started_in(Path.cwd()):
                return command()
        os.environ[FULL_ERROR] = "1"  # makes Hydra raise its errors instead of printing them
        try:
            with started_in(Path.cwd()), explain_errors():
                command()
        except UserError as error:
            sys.exit(describe_error(error))
        except OSError as error:
            sys.exit(f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error}")
        except KeyboardInterrupt:
            sys.exit(130)
        finally:
            os.environ.pop(FULL_ERROR, None)  # the code of an environment may have removed it

    return main


@contextlib.contextmanager
def explain_errors() -> Iterator[None]:
    """Raise an error of Hydra or OmegaConf, and one for lack of memory, as a `UserError` that says what to do."""
    try:
        with explain_out_of_memory():
            yield
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error) from error
    except RecursionError as error:
        if "defaults_list" not in {Path(frame.filename).stem for frame in traceback.extract_tb(error.__traceback__)}:
            raise
        raise explain(error) from error
    except ValueError as error:
        if "Config group override" not in str(error):
            raise
        raise ConfigError("the value of a config group must be the name of one of its options") from error


@contextlib.contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Exit with the message of an error of the user, before Hydra adds a prefix."""
    try:
        yield
    except UserError as error:
        raise SystemExit(describe_error(error)) from error
    except OmegaConfBaseException as error:
        raise SystemExit(describe_error(explain(error))) from error


@contextlib.contextmanager
def discard_empty(directory: Path, is_command: bool = True) -> Iterator[None]:
    """On an error or a signal, remove `directory` and its parents if they are empty.

    They are created before anything is checked. A signal ends the process at once if it `is_command`.
    """
    try:
        with ExitAtOnce(lambda by: _discard(directory)) if is_command else contextlib.nullcontext():
            yield
    except (Exception, KeyboardInterrupt):
        _discard(directory)
        raise


def _discard(directory: Path) -> None:
    """Remove `directory` if it holds only the lock of this process, then its empty parents in `start_directory()`."""
    with contextlib.suppress(OSError):  # stops at the first directory that is not empty
        if [path.name for path in directory.iterdir()] == [LOCK] and holder(directory / LOCK) == os.getpid():
            (directory / LOCK).unlink()
        for path in (directory, *(parent for parent in directory.parents if start_directory() in parent.parents)):
            path.rmdir()
