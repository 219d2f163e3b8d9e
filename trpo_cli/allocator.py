"""The memory that this process gets from the C library."""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # parameters of mallopt, in malloc.h of glibc
LARGE = 2**30  # bytes


def keep_freed_memory() -> None:
    """Have large tensors reuse memory that others freed, instead of pages that the system has to clear each time.

    Only glibc can be told so; others do as they please.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, LARGE)
        mallopt(TRIM_THRESHOLD, LARGE)
