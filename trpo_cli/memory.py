"""What does not fit into memory: refused beforehand where that can be known, and else said in a sentence."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from pathlib import Path

from trpo_cli.errors import ConfigError, TrainingError

MACHINE = Path("/proc/meminfo")
CONTAINER = Path("/sys/fs/cgroup")
LACK = re.compile(r"(?:DefaultCPUAllocator: can't allocate|CUDA out of) memory[^\n]*")  # what torch says of it


@contextlib.contextmanager
def enough_memory() -> Iterator[None]:
    """Raises `TrainingError` where memory is asked for that is not there."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        lack = LACK.search(str(error))
        if lack is None and not isinstance(error, MemoryError):
            raise
        said = lack[0] if lack else str(error)
        raise TrainingError(
            f"out of memory{f': {said}' if said else ''}\n"
            "how much is needed depends on sampler.steps_per_iteration, sampler.num_envs, and the hidden_sizes of "
            "policy and critic"
        ) from error


def refuse_batch(steps: int, bytes_a_step: int) -> None:
    """Raise `ConfigError` if a batch of so many steps, of so many bytes at least, can never fit."""
    needed, there = steps * bytes_a_step, whole_memory()
    if needed > there:
        most = 10 ** int(math.log10(there / bytes_a_step))
        raise ConfigError(
            f"sampler.steps_per_iteration: a batch of {steps:,} steps takes at least {needed / 2**30:,.0f} GiB, and "
            f"this machine has {there / 2**30:,.1f} GiB; {most:,} or fewer may fit"
        )


def whole_memory() -> float:
    """Bytes of memory and swap of the machine, or of the container; infinite where the system does not say."""
    return min(_of_machine(), _of_container())


def _of_machine() -> float:
    with contextlib.suppress(OSError):
        return 1024.0 * sum(map(int, re.findall(r"^(?:MemTotal|SwapTotal): +(\d+) kB", MACHINE.read_text(), re.M)))
    return math.inf


def _of_container() -> float:
    with contextlib.suppress(OSError, ValueError):  # "max" is no number
        return float(sum(int((CONTAINER / f"memory.{name}").read_text()) for name in ("max", "swap.max")))
    return math.inf
