"""The number of threads for computation: one, except in updates, if the user sets more.

Sums that torch splits among threads round differently, so the number is a setting and does not depend on the machine.
Work in pieces, each of which one thread does, gives the same numbers on any number of threads (`in_order`).
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

T = TypeVar("T")
R = TypeVar("R")
WORTH_THREADS = 1024  # rows of a batch; for fewer, a second thread costs more than it gains
_updates = 1
_workers = 1


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limit_threads(updates: int = 1, workers: int = 1) -> None:
    """Limit torch to one thread, or `updates` in updates, and NumPy's BLAS, whose threads wait by spinning, to one.

    Work in pieces is done by so many `workers`.
    """
    global _updates, _workers
    _updates, _workers = updates, workers
    torch.set_num_threads(1)
    threadpool_limits(1, user_api="blas")


@contextlib.contextmanager
def limited_threads() -> Iterator[None]:
    """`limit_threads` within this context; on exit, the numbers of threads are what they were."""
    global _updates, _workers
    before, own = torch.get_num_threads(), (_updates, _workers)
    with threadpool_limits(1, user_api="blas"):
        limit_threads()
        try:
            yield
        finally:
            torch.set_num_threads(before)
            _updates, _workers = own


@contextlib.contextmanager
def threads_for(rows: int) -> Iterator[None]:
    """Within this context, torch uses the threads for updates if a batch of `rows` rows is large enough."""
    with _torch_threads(_updates if rows >= WORTH_THREADS else 1):
        yield


def in_order(function: Callable[[T], R], pieces: Iterable[T]) -> Iterator[R]:
    """Yield `function` of each piece in turn. The workers share the pieces, and one thread does all of a piece.

    Results do not depend on the number of workers. Few pieces are underway at once, however many there are.
    """
    pieces = iter(pieces)
    first = list(itertools.islice(pieces, 2))
    if _workers == 1 or len(first) < 2:
        with _torch_threads(1):
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
    return ThreadPoolExecutor(workers, "worker", initializer=torch.set_num_threads, initargs=(1,))


@contextlib.contextmanager
def _torch_threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
