"""One seed, many independent streams: each named part of a run draws from its own generator."""

from __future__ import annotations

import contextlib
import random
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def sequence(seed: int, stream: str) -> np.random.SeedSequence:
    """The seed sequence of one named stream, for example `"environments"`."""
    return np.random.SeedSequence([seed, zlib.crc32(stream.encode())])


def torch_generator(seed: int, stream: str) -> torch.Generator:
    """A CPU generator for one named stream."""
    return torch.Generator().manual_seed(int(sequence(seed, stream).generate_state(1, np.uint64)[0] >> 1))


def environment_seeds(seed: int, stream: str, count: int) -> list[int]:
    """One seed for each of `count` environments."""
    return [int(word) for word in sequence(seed, stream).generate_state(count)]


def seed_globals(seed: int, stream: str) -> None:
    """Seed the generators that all code of a process shares, for one named stream: torch's, NumPy's and Python's.

    Nothing here draws from them but torch's initial parameters; an environment or plugin of the user's may.
    """
    of_torch, of_numpy, of_python = map(int, sequence(seed, stream).generate_state(3))
    torch.manual_seed(of_torch)
    np.random.seed(of_numpy)
    random.seed(of_python)


@contextlib.contextmanager
def apart(seed: int, stream: str) -> Iterator[None]:
    """Within it, the global generators are those of one named stream; after it, they are where they were before."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()):
        try:
            seed_globals(seed, stream)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def global_generators(device: str) -> dict[str, Any]:
    """The state of what `seed_globals` seeds, and of torch's generator on `device`: plain data."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state(),
        "device": torch.cuda.get_rng_state(device) if device.startswith("cuda") else None,
    }


def restore_global_generators(state: dict[str, Any], device: str) -> None:
    """Put them into the state that `global_generators` gave. Raises one of many errors if it is no such state."""
    check_position(state["numpy"])
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if device.startswith("cuda"):
        torch.cuda.set_rng_state(state["device"], device)


def check_position(state: dict[str, Any]) -> None:
    """Raises `ValueError` for a state whose position lies outside the numbers drawn in advance: NumPy reads there."""
    position, size = 0, 0
    match state["bit_generator"]:
        case "MT19937":
            position, size = state["state"]["pos"], 624
        case "Philox":
            position, size = state["buffer_pos"], 4
    if not 0 <= position <= size:
        raise ValueError(f"a position of {position}")
