"""What a policy sees of an environment's observations: images in grey or resized, some entries, the last few."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trpo_cli.data import Entry, ObservationSpec
from trpo_cli.errors import ConfigError, counted, require_packages

Array = NDArray[Any]
Encoder = Callable[[Array], Array]
Entries = list[int | str]
"""Numbers of a vector: indices, ranges such as `5:11`, as in Python, and names of the entries that it joins."""
LUMA = (0.2125, 0.7154, 0.0721)  # of red, green and blue: those of Gymnasium's `GrayscaleObservation`
RANGE = re.compile(r"(-?\d+)?:(-?\d+)?")


def select_entries(
    spec: ObservationSpec, encode: Encoder, observe: Entries | None, hide: Entries | None, env_id: str
) -> tuple[ObservationSpec, Encoder]:
    """Return the spec and the encoder of the entries that are observed, in the order given, or not hidden.

    Raises `ConfigError` as `find_shown` does.
    """
    shown = find_shown(spec, observe, hide, env_id)
    if shown is None:
        return spec, encode
    entries = tuple(_place(spec.entries, [np.isin(np.arange(spec.size)[one.place], shown) for one in spec.entries]))
    return replace(spec, shape=(len(shown),), entries=entries), lambda batch: encode(batch)[:, shown]


def prepare_images(
    spec: ObservationSpec, encode: Encoder, grey: bool, resize: Sequence[int] | None, env_id: str
) -> tuple[ObservationSpec, Encoder]:
    """Return the spec and the encoder of images in grey, and then of this size.

    They are those of Gymnasium's `GrayscaleObservation` and `ResizeObservation`, bit for bit; images in grey, and those
    of the size already, stay as they are. Raises `ConfigError` unless the observations are images of bytes.
    """
    if not grey and resize is None:
        return spec, encode
    key, colours = "env.grey" if grey else "env.resize", spec.shape[2:]
    if not spec.is_image or spec.dtype != np.uint8 or colours not in ((), (1,), (3,)):
        what = f"{counted(len(spec.entries), 'entry')} of a vector" if spec.entries else f"arrays of {spec.dtype}"
        raise ConfigError(
            f"{key}: is for images of bytes, (height, width) and at the end the colours, 1 or 3 if any; the "
            f"observations of {env_id} are {what}, shape {spec.shape}"
        )
    if grey and colours == (3,):
        spec, encode = replace(spec, shape=spec.shape[:2]), _in_turn(encode, _to_grey)
    if resize is not None and spec.shape[:2] != tuple(resize):
        require_packages("env.resize", "images", "cv2")
        spec = replace(spec, shape=(*resize, *spec.shape[2:]))
        encode = _in_turn(encode, functools.partial(_resize, shape=spec.shape))
    return spec, encode


def _in_turn(first: Encoder, then: Encoder) -> Encoder:
    return lambda batch: then(first(batch))


def _to_grey(images: Array) -> Array:
    red, green, blue = (images[..., colour] * weight for colour, weight in enumerate(LUMA))
    return (red + green + blue).astype(np.uint8)


def _resize(images: Array, shape: tuple[int, ...]) -> Array:
    import cv2

    resized = [cv2.resize(image, (shape[1], shape[0]), interpolation=cv2.INTER_AREA) for image in images]
    return np.stack(resized).reshape(-1, *shape)


def find_shown(
    spec: ObservationSpec, observe: Entries | None, hide: Entries | None, env_id: str
) -> NDArray[np.int64] | None:
    """Return the indices (M,) of the numbers that a policy sees, in this order; None for all.

    Raises `ConfigError` unless there is a vector, and at most one list, which names some of its entries once.
    """
    if observe is not None and hide is not None:
        raise ConfigError("env.observe: give either the entries to observe or, with env.hide, those to hide; not both")
    if observe is None and hide is None:
        return None
    key, listed = ("env.observe", observe) if observe is not None else ("env.hide", hide or [])
    if len(spec.shape) != 1 or spec.num_states is not None:
        given = "one state of a finite set" if spec.num_states else f"arrays of {spec.dtype}, shape {spec.shape}"
        raise ConfigError(f"{key}: names entries of a vector, and the observations of {env_id} are {given}")
    found = find_entries(spec, listed, key, env_id)
    shown = found if observe is not None else np.setdiff1d(np.arange(spec.size), found)
    if not len(shown):
        raise ConfigError(f"{key}: got {listed}, which leaves nothing of the {spec.size} entries of {env_id} to see")
    return np.sort(shown) if spec.entries else shown  # each entry stays in one stretch


def _place(entries: Sequence[Entry], shown: Sequence[NDArray[np.bool_]]) -> Iterator[Entry]:
    """Yield what is left of the entries of which `shown` has the numbers to see, one after the other."""
    start = 0
    for entry, mask in zip(entries, shown, strict=True):
        if count := int(mask.sum()):
            yield replace(entry, shape=entry.shape if mask.all() else (count,), start=start)
            start += count


def find_entries(spec: ObservationSpec, listed: Entries, key: str, env_id: str) -> NDArray[np.int64]:
    """Return the indices (M,) of the listed entries. Raises `ConfigError` for those that are unknown or named twice."""
    found: list[int] = []
    for place, one in enumerate(listed):
        inner = (isinstance(one, str) and _find_entry(spec.entries, one)) or _find_range(spec.size, one)
        if inner is None:
            size = counted(spec.size, "number")
            names = "".join(f", {entry.name}" for entry in spec.entries if entry.name)
            raise ConfigError(
                f"{key}[{place}]: got {one!r}, but an observation of {env_id} has {size}; it should be an index from "
                f"{-spec.size} to {spec.size - 1}, or a range such as '0:{spec.size}'{names and ', or an entry'}{names}"
            )
        if twice := sorted(set(found).intersection(inner)):
            raise ConfigError(f"{key}[{place}]: {one!r} names entry {twice[0]} a second time")
        found.extend(inner)
    return np.array(found, dtype=np.int64)


def _find_entry(entries: Sequence[Entry], name: str) -> list[int]:
    """Return the indices of the entry of that name, or of those below it; a name that has quotes may lack them."""
    for one in (name, repr(name)):
        if found := [entry for entry in entries if entry.name == one or entry.name.startswith(f"{one}.")]:
            break
    return [index for entry in found for index in range(entry.place.start, entry.place.stop)]


def _find_range(size: int, entry: int | str) -> Sequence[int] | None:
    """Return the indices that an entry names, or None if there are none, or some do not exist."""
    if isinstance(entry, int):
        return [entry % size] if -size <= entry < size else None
    ends = RANGE.fullmatch(entry.replace(" ", ""))
    first, end = (None if text is None else int(text) for text in ends.groups()) if ends else (size + 1, None)
    if any(one is not None and not -size <= one <= size for one in (first, end)):
        return None
    return range(size)[first:end] or None


def stack_spec(spec: ObservationSpec, count: int) -> ObservationSpec:
    """Return the spec of `count` consecutive observations (count, O); that of one if `count` is 1."""
    if count == 1:
        return spec
    frames = range(count if spec.entries else 0)
    entries = [
        replace(entry, name=f"{entry.name}[{frame}]", start=frame * spec.size + entry.start)
        for frame, entry in itertools.product(frames, spec.entries)
    ]
    return ObservationSpec((count, *spec.shape), spec.dtype, entries=tuple(entries), stack=count)


def begin_stack(observation: Array, count: int) -> Array:
    """Repeat the first observations of episodes (N, O) as (N, count, O)."""
    return np.repeat(observation[:, None], count, axis=1)


def push_on_stack(stack: Array, observation: Array) -> Array:
    """Return the stacks (N, K, O) with the newest observations (N, O) at the end, without the oldest."""
    return np.concatenate([stack[:, 1:], observation[:, None]], axis=1)


def stack_episode(observations: Array, count: int) -> Array:
    """Return the stacks (T, count, O) of an episode's observations (T, O), or these themselves if `count` is 1."""
    if count == 1:
        return observations
    newest = np.arange(len(observations))[:, None]
    stacks: Array = observations[np.maximum(newest + np.arange(1 - count, 1), 0)]
    return stacks
