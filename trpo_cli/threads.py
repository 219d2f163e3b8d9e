"""The number of threads for computation: one, except for work in pieces, each of which one thread does (`in_order`).

Sums that torch or a BLAS splits among threads round differently; those of pieces are the same on any number of threads.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

T = TypeVar("T")
R = TypeVar("R")
_workers = 1
_inside = threading.local()  # a worker, which does whatever is in pieces by itself


def cores() -> int:
    """Return how many cores this process may use, of those that it shares with other ranks of a run."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    local = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, here // max(1, int(local) if local.isdecimal() else 1))


def workers() -> int:
    """Return how many threads share the pieces."""
    return _workers


def limit_threads(workers: int = 1) -> None:
    """Limit torch and NumPy's BLAS, whose threads wait by spinning, to one thread. Pieces are done by the `workers`."""
    global _workers
    _workers = workers
    torch.set_num_threads(1)
    threadpool_limits(1, user_api="blas")


@contextlib.contextmanager
def limited_threads() -> Iterator[None]:
    """`limit_threads` within this context; on exit, the numbers of threads are what they were."""
    global _workers
    before, own = torch.get_num_threads(), _workers
    with threadpool_limits(1, user_api="blas"):
        limit_threads()
        try:
            yield
        finally:
            torch.set_num_threads(before)
            _workers = own


def in_order(function: Callable[[T], R], pieces: Iterable[T]) -> Iterator[R]:
    """Yield `function` of each piece in turn. The workers share the pieces, and one thread does all of a piece.

    Results do not depend on the number of workers. Few pieces are underway at once, however many there are.
    """
    pieces = iter(pieces)
    first = list(itertools.islice(pieces, 2))
    if _workers == 1 or len(first) < 2 or getattr(_inside, "worker", False):
        for piece in itertools.chain(first, pieces):
            yield function(piece)
        return
    pool, underway, with_graph = _pool(_workers), collections.deque[Future[R]](), torch.is_grad_enabled()

    def work(piece: T) -> R:
        with torch.set_grad_enabled(with_graph):  # which each thread has to be told
            return function(piece)

    for piece in itertools.chain(first, pieces):
        underway.append(pool.submit(work, piece))
        if len(underway) > _workers:
            yield underway.popleft().result()
    while underway:
        yield underway.popleft().result()


@functools.cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, "worker", initializer=_begin_work)


def _begin_work() -> None:
    torch.set_num_threads(1)
    _inside.worker = True
