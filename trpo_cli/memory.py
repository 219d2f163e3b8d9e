"""Refuses observations and batches that cannot fit into memory, explains errors when it runs out, and has it reused."""

from __future__ import annotations

import contextlib
import ctypes
import math
import re
from collections.abc import Iterator
from pathlib import Path

from trpo_cli.errors import ConfigError, TrainingError

MACHINE_FILE = Path("/proc/meminfo")
CONTAINER_FOLDER = Path("/sys/fs/cgroup")
UNITS = 64  # of a small layer that reads observations
OUT_OF_MEMORY = re.compile(r"(?:DefaultCPUAllocator: can't allocate|CUDA out of) memory[^\n]*")  # messages of torch
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # parameters of mallopt, in malloc.h of glibc
LARGE = 2**30  # bytes


@contextlib.contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Raise `TrainingError` in place of errors of NumPy and torch when memory runs out."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        lack = OUT_OF_MEMORY.search(str(error))
        if lack is None and not isinstance(error, MemoryError):
            raise
        detail = lack[0] if lack else str(error)
        raise TrainingError(
            f"out of memory{f': {detail}' if detail else ''}\n"
            "reduce sampler.steps_per_iteration, sampler.num_envs, env.stack, env.resize, or the convolutions and "
            "hidden_sizes of policy and critic"
        ) from error


def refuse_oversized_batch(steps: int, bytes_a_step: int) -> None:
    """Raise `ConfigError` if a batch of `steps` steps, of at least `bytes_a_step` bytes each, exceeds the memory."""
    needed, there = steps * bytes_a_step, total_memory()
    if needed > there:
        most = 10 ** int(math.log10(there / bytes_a_step))
        raise ConfigError(
            f"sampler.steps_per_iteration: a batch of {steps:,} steps takes at least {needed / 2**30:,.0f} GiB, and "
            f"this machine has {there / 2**30:,.1f} GiB; {most:,} or fewer may fit"
        )


def refuse_oversized_observation(what: str, size: int) -> None:
    """Raise `ConfigError`, beginning with `what` has so many numbers, if no network could read them in this memory."""
    needed, there = size * UNITS * 4, total_memory()
    if needed > there:
        raise ConfigError(
            f"{what} {size:,} numbers; a layer of {UNITS} units that reads them takes {needed / 2**30:,.0f} GiB, and "
            f"this machine has {there / 2**30:,.1f} GiB"
        )


def total_memory() -> float:
    """Bytes of memory and swap of the machine or the container, whichever is less; infinite if unknown."""
    return min(_machine_memory(), _container_memory())


def _machine_memory() -> float:
    with contextlib.suppress(OSError):
        return 1024.0 * sum(map(int, re.findall(r"^(?:MemTotal|SwapTotal): +(\d+) kB", MACHINE_FILE.read_text(), re.M)))
    return math.inf


def _container_memory() -> float:
    with contextlib.suppress(OSError, ValueError):  # "max" means no limit
        return float(sum(int((CONTAINER_FOLDER / f"memory.{name}").read_text()) for name in ("max", "swap.max")))
    return math.inf


def keep_freed_memory() -> None:
    """Have large tensors reuse memory that others freed, instead of pages that the system has to clear each time.

    Only glibc can be told so; others do as they please.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, LARGE)
        mallopt(TRIM_THRESHOLD, LARGE)
