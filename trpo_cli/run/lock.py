"""A lock file that one process holds at a time; the system releases it when the process ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import socket
import time
from pathlib import Path

from trpo_cli.errors import RunDirectoryError

log = logging.getLogger("trpo_cli")
LOCK = ".lock"  # name of the file
PATIENCE = 0.05  # seconds until the second try


def is_held(path: Path) -> bool:
    """Whether a process holds the lock at `path`; False if the file system does not support locks.

    The check itself takes a shared lock for an instant, which `Lock` waits out.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(file)
    return False


def holder(path: Path) -> int | None:
    """The id of the process on this machine that holds the lock at `path`; None if there is none."""
    if is_held(path):
        with contextlib.suppress(FileNotFoundError):  # released just now
            found = re.fullmatch(r"process (\d+) on (\S+)\n", path.read_text(errors="replace"))
            if found and found[2] == socket.gethostname():
                return int(found[1])
    return None


class Lock:
    """A lock that is held from construction until `release`."""

    def __init__(self, path: Path) -> None:
        """Raises `RunDirectoryError` if another process holds it. Only warns if the file system has no locks."""
        self.path, patience = path, 1
        while True:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if patience:  # it may be `is_held` of another process
                    patience -= 1
                    os.close(self._file)
                    time.sleep(PATIENCE)
                    continue
                holder = os.read(self._file, 200).decode(errors="replace").strip() or "another process"
                os.close(self._file)
                raise RunDirectoryError(f"{path.parent} is being written to by {holder}") from None
            except OSError as error:
                log.warning("%s cannot be locked (%s): make sure that no other process writes there", path, error)
                break
            if self._is_current():
                break
            os.close(self._file)  # its last holder has deleted it meanwhile
        os.ftruncate(self._file, 0)
        os.write(self._file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())

    def _is_current(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._file), os.stat(self.path))
        return False

    def release(self) -> None:
        """Release the lock and delete its file."""
        if self._is_current():
            os.unlink(self.path)
        os.close(self._file)
