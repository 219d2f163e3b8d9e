"""One seed, many independent streams: each named part of a run draws from its own generator."""

from __future__ import annotations

import zlib

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
