"""Many independent streams from one seed: each named part of a run draws from its own generator."""

from __future__ import annotations

import contextlib
import random
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def seed_sequence(seed: int, stream: str) -> np.random.SeedSequence:
    """The seed sequence of a named stream, for example `"environments"`."""
    return np.random.SeedSequence([seed, zlib.crc32(stream.encode())])


def torch_generator(seed: int, stream: str) -> torch.Generator:
    """A CPU generator for a named stream."""
    return torch.Generator().manual_seed(int(seed_sequence(seed, stream).generate_state(1, np.uint64)[0] >> 1))


def environment_seeds(seed: int, stream: str, count: int) -> list[int]:
    """One seed for each of `count` environments."""
    return [int(word) for word in seed_sequence(seed, stream).generate_state(count)]


def seed_globals(seed: int, stream: str) -> None:
    """Seed the global generators of torch, NumPy and Python for a named stream.

    This package draws only initial parameters from them; environments and plugins may draw more.
    """
    of_torch, of_numpy, of_python = map(int, seed_sequence(seed, stream).generate_state(3))
    torch.manual_seed(of_torch)
    np.random.seed(of_numpy)
    random.seed(of_python)


@contextlib.contextmanager
def isolate_globals(seed: int, stream: str) -> Iterator[None]:
    """Seed the global generators for a named stream; on exit, restore their previous states."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()):
        try:
            seed_globals(seed, stream)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def global_generators(device: str) -> dict[str, Any]:
    """The states of the generators of `seed_globals` and of torch's generator on `device`, as plain data."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state(),
        "device": torch.cuda.get_rng_state(device) if device.startswith("cuda") else None,
    }


def restore_global_generators(state: dict[str, Any], device: str) -> None:
    """Restore what `global_generators` returned. Raises one of many errors if the state is invalid."""
    check_position(state["numpy"])
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if device.startswith("cuda"):
        torch.cuda.set_rng_state(state["device"], device)


def check_position(state: dict[str, Any]) -> None:
    """Raise `ValueError` if the position lies outside the buffer of drawn numbers, where NumPy would read."""
    position, size = 0, 0
    match state["bit_generator"]:
        case "MT19937":
            position, size = state["state"]["pos"], 624
        case "Philox":
            position, size = state["buffer_pos"], 4
    if not 0 <= position <= size:
        raise ValueError(f"a position of {position} is outside the generator's buffer")
