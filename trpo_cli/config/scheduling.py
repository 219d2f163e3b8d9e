"""The `schedule` of a part: which of its settings move in the course of training, and how."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trpo_cli.config.build import SCHEDULE, SCHEDULED_GROUPS, check_value, get_hints, is_whole
from trpo_cli.config.settings import flatten, format_setting
from trpo_cli.errors import ConfigError, UnknownNameError, suggest_name
from trpo_cli.schedules import CONSTANT, FITS, STEP, Curve, Scheduled, make_schedule


def find_schedules(node: Mapping[str, Any], path: str, part: Any) -> list[Scheduled]:
    """Return the schedules that `node` gives to settings of `part`, and of the functions inside it.

    Such a setting is an attribute of an object or a keyword of a partial function, which is read each time it is used.
    Raises `ConfigError` for a schedule that cannot be followed, or with values out of range.
    """
    is_function = isinstance(part, functools.partial)
    target: Callable[..., Any] = part.func if is_function else type(part)
    values = part.keywords if is_function else vars(part)
    live = [name for name in values if name not in getattr(part, "only_at_first", ())]
    divided = dict.fromkeys(getattr(part, "divided", ()), getattr(part, "shards", None))
    found = []
    for name, curve in _read_curves(node, path, live, get_hints(target), divided).items():
        found.append(Scheduled(f"{path}.{name}", curve, [values]))
    for name, inner in node.items():
        if isinstance(inner, Mapping) and "_target_" in inner:
            found += find_schedules(inner, f"{path}.{name}", values[name])
    return found


def _read_curves(
    node: Mapping[str, Any], path: str, live: Sequence[str], hints: Mapping[str, Any], divided: Mapping[str, Any]
) -> dict[str, Curve]:
    """Return the curve of each setting of a node that moves; only those that are `live` may.

    Shards share the values of those that are `divided` among them.
    """
    given = node.get(SCHEDULE) or {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"{path}.{SCHEDULE}: got {format_setting(given)}; it should be {{SETTING: SHAPE}}")
    numbers = [one for one in live if one in node and type(node[one]) in (int, float, type(None))]
    curves = {}
    for name, shape in given.items():
        key = f"{path}.{SCHEDULE}.{name}"
        if name in node and name not in numbers:
            others = f"; of its neighbours, {', '.join(numbers)} can" if numbers else ""
            raise ConfigError(f"{key}: {path}.{name} can follow no schedule{others}")
        if name not in numbers:
            raise UnknownNameError(f"{key}: no such key{suggest_name(str(name), numbers) if numbers else ''}")
        try:
            schedule = make_schedule(node[name] or 0, shape)
        except ValueError as error:
            raise ConfigError(f"{key}: got {format_setting(shape)}; {error}") from error
        if schedule is None:
            continue
        if node[name] is None:
            raise ConfigError(f"{key}: {path}.{name} is null, and a schedule begins at a number")
        hint = hints.get(name, Any)
        if is_whole(hint) and shape[0] != STEP:
            fits = f"{path}.{name} is a whole number, so it should be {FITS[STEP]}"
            raise ConfigError(f"{key}: got {format_setting(shape)}; {fits}")
        for time in schedule.turns:
            value = float(f"{schedule.curve(time):.5g}")  # just before its end, a curve is not at a round number
            when = f"{key}, after {100 * time:.3g} % of training"
            check_value(value, hint, when)
            if name in divided:
                divided[name].divide(int(value), when)
        curves[name] = _with_whole_values(schedule.curve) if is_whole(hint) else schedule.curve
    return curves


def _with_whole_values(curve: Curve) -> Curve:
    """Return a curve whose values are integers, even if they were written as 5.0."""
    return lambda progress: int(curve(progress))


def list_scheduled_keys(node: Mapping[str, Any]) -> list[str]:
    """List the keys of a configuration, nested or flat, that follow a schedule, which ends at `total_steps`."""
    leaves = ((path.split("."), shape) for path, shape in flatten(dict(node)))
    return [
        ".".join((*path[:-2], path[-1]))
        for path, shape in leaves
        if path[0] in SCHEDULED_GROUPS and SCHEDULE in path[:-1] and shape != CONSTANT
    ]
