"""Letting go of environments, whatever they have against it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from trpo_cli.envs.failure import NOT_ITS_OWN, Failure, worded

log = logging.getLogger("trpo_cli")
LONG = 15.0  # seconds: worker processes have been killed before


def let_go(close: Callable[[], object], name: str, told: set[str]) -> None:
    """Call `close`, of environments called `name`. What goes wrong in it ends nothing, and is logged unless it is in
    `told` already.

    No thread can be stopped from without, so a `close` that hangs in this process is only spoken of: Ctrl-C ends it.
    """
    late = threading.Timer(LONG, log.warning, (f"{name} has not come to the end of its close; Ctrl-C gives it up",))
    late.daemon = True
    late.start()
    try:
        close()
    except NOT_ITS_OWN:
        raise
    except BaseException as error:
        failure = error if isinstance(error, Failure) else Failure(" raised in its close", f": {worded(error)}")
        complaint = f"{name}{failure.what}{failure.more}"
        if complaint not in told:
            told.add(complaint)
            log.warning("%s; it is let go of all the same", complaint)
    finally:
        late.cancel()
