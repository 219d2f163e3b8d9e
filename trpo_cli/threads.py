"""How many threads numbers are crunched on: one, but for updates where the user wants more.

Sums split among threads round differently, so their number is a setting, and not how many cores there happen to be.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

WORTH_THREADS = 1024  # rows of a batch: with fewer, a second thread costs more than it brings
_updates = 1


def limit_threads(updates: int = 1) -> None:
    """One thread for torch, but for so many in updates, and for numpy's BLAS, whose threads wait by spinning."""
    global _updates
    _updates = updates
    torch.set_num_threads(1)
    threadpool_limits(1, user_api="blas")


@contextlib.contextmanager
def threads_for(rows: int) -> Iterator[None]:
    """Run torch for a while on the threads for updates, if so many rows are worth them."""
    before = torch.get_num_threads()
    torch.set_num_threads(_updates if rows >= WORTH_THREADS else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
