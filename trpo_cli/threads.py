"""The number of threads for computation: one, except in updates, if the user sets more.

Sums that are split among threads round differently, so the number is a setting and does not depend on the machine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

WORTH_THREADS = 1024  # rows of a batch; for fewer, a second thread costs more than it gains
_updates = 1


def limit_threads(updates: int = 1) -> None:
    """Limit torch to one thread, or `updates` in updates, and NumPy's BLAS, whose threads wait by spinning, to one."""
    global _updates
    _updates = updates
    torch.set_num_threads(1)
    threadpool_limits(1, user_api="blas")


@contextlib.contextmanager
def limited_threads() -> Iterator[None]:
    """`limit_threads` within this context; on exit, the numbers of threads are what they were."""
    global _updates
    before, updates = torch.get_num_threads(), _updates
    with threadpool_limits(1, user_api="blas"):
        limit_threads()
        try:
            yield
        finally:
            torch.set_num_threads(before)
            _updates = updates


@contextlib.contextmanager
def threads_for(rows: int) -> Iterator[None]:
    """Within this context, torch uses the threads for updates if a batch of `rows` rows is large enough."""
    before = torch.get_num_threads()
    torch.set_num_threads(_updates if rows >= WORTH_THREADS else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
