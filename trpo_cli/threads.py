"""How many threads numbers are crunched on: one, unless the work feeds more."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

ALL_THREADS = torch.get_num_threads()  # what the machine, or OMP_NUM_THREADS, allows
WORTH_THREADS = 1024  # rows of a batch: with fewer, a second thread costs more than it brings


def single_threaded() -> None:
    """One thread for torch, which takes more where they pay, and for numpy's BLAS, whose threads wait by spinning."""
    torch.set_num_threads(1)
    threadpool_limits(1, user_api="blas")


@contextlib.contextmanager
def threads_for(rows: int) -> Iterator[None]:
    """Run torch for a while on as many threads as work on so many rows can feed."""
    before = torch.get_num_threads()
    torch.set_num_threads(ALL_THREADS if rows >= WORTH_THREADS else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
