"""What the commands share: errors are said in a few lines, and leave nothing behind."""

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

from trpo_cli.cli.mistakes import explained, told
from trpo_cli.errors import ConfigError, UserError
from trpo_cli.memory import enough_memory
from trpo_cli.run.layout import home, typed_in
from trpo_cli.run.lock import LOCK, holder
from trpo_cli.run.signals import AtOnce

FULL_ERROR = "HYDRA_FULL_ERROR"


def reported(command: Callable[[], None]) -> Callable[[], None]:
    """Run a command; an error the user can mend becomes a few lines on standard error and exit status 1.

    Anything else is a fault of the program and keeps its traceback, as everything does under HYDRA_FULL_ERROR=1.
    """

    @functools.wraps(command)
    def main() -> None:
        if os.environ.get(FULL_ERROR, "0") != "0":
            with typed_in(Path.cwd()):
                return command()
        os.environ[FULL_ERROR] = "1"  # Hydra then raises its errors, instead of printing them its own way
        try:
            with typed_in(Path.cwd()), enough_memory():
                command()
        except UserError as error:
            sys.exit(told(error))
        except (HydraException, OmegaConfBaseException) as error:
            sys.exit(told(explained(error)))
        except RecursionError as error:
            if "defaults_list" not in {
                Path(frame.filename).stem for frame in traceback.extract_tb(error.__traceback__)
            }:
                raise
            sys.exit(told(explained(error)))
        except ValueError as error:
            if "Config group override" not in str(error):
                raise
            sys.exit(told(ConfigError("a group takes the name of one of its options")))
        except OSError as error:
            sys.exit(f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error}")
        except KeyboardInterrupt:
            sys.exit(130)
        finally:
            os.environ.pop(FULL_ERROR, None)  # an environment may have cleared it

    return main


@contextlib.contextmanager
def told_once() -> Iterator[None]:
    """End the process with the message of a user's error, before Hydra prefixes one of its own."""
    try:
        yield
    except UserError as error:
        raise SystemExit(told(error)) from error
    except OmegaConfBaseException as error:
        raise SystemExit(told(explained(error))) from error


@contextlib.contextmanager
def discard_empty(directory: Path) -> Iterator[None]:
    """On an error, or a signal before it trains, remove `directory` and its parents, as far as they are empty.

    Hydra makes them before anything is checked.
    """
    try:
        with AtOnce(lambda by: _discard(directory)):
            yield
    except Exception:
        _discard(directory)
        raise


def _discard(directory: Path) -> None:
    """Remove it and its parents below `home()`, if nothing is in it but the lock of this process."""
    with contextlib.suppress(OSError):  # the first that is not empty ends it
        if [path.name for path in directory.iterdir()] == [LOCK] and holder(directory / LOCK) == os.getpid():
            (directory / LOCK).unlink()
        for path in (directory, *(parent for parent in directory.parents if home() in parent.parents)):
            path.rmdir()
