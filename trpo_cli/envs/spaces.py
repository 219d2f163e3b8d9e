"""Between Gymnasium's spaces and the arrays that policies read and write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from trpo_cli.data import ObservationSpec, shows_image
from trpo_cli.envs.joining import join
from trpo_cli.errors import ConfigError, counted
from trpo_cli.models.distributions import Categorical, DiagonalGaussian, Distribution

Encoder = Callable[[NDArray[Any]], NDArray[Any]]
Decoder = Callable[[NDArray[Any]], NDArray[Any]]
Rescale = Literal["auto"] | bool
"""Whether a policy acts between -1 and 1 in place of the bounds; auto: where some are far from these."""
FAR = 5.0  # the factor by which bounds of actions may differ from 1 and be left as they are
SHOWN = 3  # ranges of actions in a message
LARGEST = float(np.finfo(np.float32).max)  # that a network can read; as a bound of actions it stands for none


def find_unreadable(batch: NDArray[Any]) -> int | None:
    """Return the first row of a batch (N, ...) with a number that no network can read, or None."""
    if batch.dtype.kind != "f" or np.vdot(batch, batch) <= LARGEST:  # no square is larger: a quarter of the time
        return None
    if (readable := np.abs(batch) <= LARGEST).all():
        return None
    return int(np.argwhere(~readable)[0, 0])


def observation_encoder(space: spaces.Space[Any]) -> tuple[ObservationSpec, Encoder]:
    """Return what policies read from this space, and the function (N, ...) -> (N, O) that encodes it.

    A Box keeps its shape, and its dtype if that is `uint8`, or `bool` in an image; other numbers become float64. A
    Discrete state becomes a one-hot vector. Observations of other spaces are joined before. Raises `ConfigError` if
    they cannot be.
    """
    match join(space):
        case spaces.Box() as box:
            is_kept = box.dtype == np.uint8 or shows_image(box.shape, box.dtype)
            dtype = np.dtype(box.dtype if is_kept else np.float64)
            spec = ObservationSpec(box.shape or (1,), dtype, entries=getattr(box, "entries", ()))
            return spec, lambda batch: batch.reshape(-1, *spec.shape).astype(dtype, copy=False)
        case spaces.Discrete() as states:
            count, start = int(states.n), int(states.start)

            def encode(batch: NDArray[Any]) -> NDArray[Any]:
                one_hot = np.zeros((len(batch), count))
                one_hot[np.arange(len(batch)), batch - start] = 1
                return one_hot

            return ObservationSpec((count,), np.dtype(np.float64), count), encode


def action_decoder(space: spaces.Space[Any], env_id: str, rescale: Rescale = False) -> tuple[Distribution, Decoder]:
    """Return the policy's distribution for a space, and the function from its actions (N, A) to those of the space.

    Only here are Box actions rescaled, and clipped to their bounds. Raises `ConfigError` for an unsupported space, or
    if there is nothing to `rescale`.
    """
    if rescale is True and not (isinstance(space, spaces.Box) and _have_bounds(space).any()):
        raise ConfigError(f"env.rescale_action: got true; no action of {env_id} has two finite bounds: {_name(space)}")
    match space:
        case spaces.Box() if np.issubdtype(space.dtype, np.floating) and 0 not in space.shape:
            low, high, shape, dtype = space.low, space.high, space.shape, space.dtype
            gaussian = DiagonalGaussian(int(np.prod(shape)))

            def clip(action: NDArray[Any]) -> NDArray[Any]:
                clipped: NDArray[Any] = np.maximum(np.minimum(action.reshape(-1, *shape), high), low)
                return clipped.astype(dtype, copy=False)

            scale = find_scale(space, rescale)
            if scale is None:
                return gaussian, clip
            half, middle = scale
            return gaussian, lambda a: clip(a.reshape(-1, *shape) * half + middle)
        case spaces.Discrete():
            return Categorical([int(space.n)]), lambda a: a[:, 0] + space.start
        case spaces.MultiDiscrete():
            offset, shape = space.start, space.shape
            return Categorical(space.nvec.flatten().tolist()), lambda a: (a.reshape(len(a), *shape) + offset).astype(
                space.dtype
            )
        case spaces.MultiBinary():
            shape = space.shape
            return Categorical([2] * int(np.prod(shape))), lambda a: a.reshape(len(a), *shape).astype(space.dtype)
        case _:
            raise ConfigError(
                f"env.id: the actions of {env_id} are {_name(space)}; supported are Box (of one float or more), "
                "Discrete, MultiDiscrete and MultiBinary."
            )


def encode_actions(space: spaces.Space[Any], actions: NDArray[Any], rescale: Rescale = False) -> NDArray[Any]:
    """Return the actions (N, A) of a policy that become `actions` of this space; those of a Box are not clipped."""
    flat = np.asarray(actions).reshape(len(actions), -1)
    if isinstance(space, spaces.Box):
        if scale := find_scale(space, rescale):
            half, middle = (values.flatten() for values in scale)
            flat = (flat - middle) / np.where(half, half, 1)  # an action that has only one value is 0
        return flat.astype(np.float32)
    first: NDArray[Any] = np.asarray(getattr(space, "start", 0)).flatten()
    return np.asarray(flat - first, dtype=np.int64)


def is_rescaled(space: spaces.Space[Any], rescale: Rescale) -> bool:
    """Whether a policy acts between -1 and 1 in place of the bounds of these actions."""
    return isinstance(space, spaces.Box) and bool(
        (_are_far(space) & _have_bounds(space)).any() if rescale == "auto" else rescale
    )


def find_scale(space: spaces.Space[Any], rescale: Rescale) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return half of the distance between the bounds and the middle, or None if actions are not rescaled.

    They are 1 and 0 where a bound is missing.
    """
    if not (isinstance(space, spaces.Box) and is_rescaled(space, rescale)):
        return None
    bounded = _have_bounds(space)
    below, above = (
        np.where(bounded, ends.astype(np.float64), sign) / 2 for ends, sign in ((space.low, -1), (space.high, 1))
    )
    return above - below, above + below


def describe_scale(space: spaces.Space[Any], env_id: str, rescale: Rescale = False) -> str | None:
    """Return which actions are rescaled, or a warning if they are not and some should be; None if neither holds."""
    if not isinstance(space, spaces.Box):
        return None
    if is_rescaled(space, rescale):
        bounded = _have_bounds(space)
        ranges = Counter(zip(space.low[bounded].tolist(), space.high[bounded].tolist(), strict=True))
        shown = [f"{low:g} to {high:g} ({counted(n, 'number')})" for (low, high), n in ranges.most_common(SHOWN)]
        more = [f"{len(ranges) - SHOWN} other ranges"] if len(ranges) > SHOWN else []
        rest = "; those without finite bounds are left as they are" if not bounded.all() else ""
        return (
            f"actions of {env_id} are rescaled: -1 to 1 of the policy stands for {', '.join([*shown, *more])}{rest}; "
            "env.rescale_action=false leaves them as they are"
        )
    odd = (_are_far(space) & np.isfinite(_reach(space))).flatten()
    if not odd.any():
        return None
    low, high, bounded = (values.flatten()[odd][0] for values in (space.low, space.high, _have_bounds(space)))
    advice = "env.rescale_action=auto lets -1 and 1 stand for them" if bounded else "env.wrappers may rescale them"
    return (
        f"actions of {env_id} reach from {low:g} to {high:g}, and a policy begins near 0 with a standard deviation of "
        f"about 1, so it may learn nothing: {advice}"
    )


def _reach(space: spaces.Box) -> NDArray[Any]:
    """The larger of both bounds of each number, by absolute value."""
    return np.maximum(np.abs(space.low), np.abs(space.high))


def _are_far(space: spaces.Box) -> NDArray[np.bool_]:
    """Where the bounds, which may be infinite, are far from -1 and 1."""
    reach = _reach(space)
    return (reach > FAR) | ((reach > 0) & (reach < 1 / FAR))


def _have_bounds(space: spaces.Box) -> NDArray[np.bool_]:
    """Where both bounds are finite."""
    return _reach(space) < LARGEST


def _name(space: spaces.Space[Any]) -> str:
    text = str(space)
    return text if len(text) <= 80 else f"{type(space).__name__}(...)"
