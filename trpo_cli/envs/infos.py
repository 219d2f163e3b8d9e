"""Numbers from infos, by name (`env.log_info`): what an environment says about an episode in its last step."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trpo_cli.envs.failure import ContractViolation
from trpo_cli.envs.leaf import describe_value
from trpo_cli.errors import did_you_mean

log = logging.getLogger("trpo_cli")
Infos = Mapping[str, NDArray[np.float64]]
"""Name -> its number in each of K episodes (K,), NaN in those that have none."""


class Numbers(NamedTuple):
    """The numbers that were asked for in one info; plain values, which cross processes."""

    values: list[float]  # in the order of the names; NaN where there is no finite number
    there: list[str]  # the names of all numbers in the info, if one of those asked for is missing


def read_numbers(info: Any, names: Sequence[str], index: int) -> Numbers:
    """Read `names` in the info of environment number `index`; `episode.r` is `r` of the dictionary `episode`.

    Numbers, booleans and arrays of one element fit. Raises `ContractViolation` for anything else under such a name.
    """
    if not isinstance(info, Mapping):
        raise ContractViolation(": info is not a dictionary", f" of environment {index}: {describe_value(info)}")
    values = [_read(info, name, index) for name in names]
    return Numbers(values, sorted(_numeric_names(info)) if any(map(math.isnan, values)) else [])


def gather(found: Sequence[Numbers], names: Sequence[str], env_id: str, logged: set[str]) -> Infos:
    """The numbers of K infos by name. That one is missing is logged, unless `logged` says that it was before."""
    table = np.array([one.values for one in found]).reshape(len(found), len(names))
    for name, column in zip(names, table.T, strict=True):
        missing = np.flatnonzero(np.isnan(column))
        lacks = f"{env_id}: the info at the end of an episode has no finite number '{name}'"
        if missing.size and lacks not in logged:
            logged.add(lacks)
            known = [other for other in found[missing[0]].there if other != name]
            others = f"; there are: {', '.join(known) or 'none'}{did_you_mean(name, known)}"
            log.warning("%s, so the episode does not count there%s", lacks, others)
    return dict(zip(names, table.T, strict=True))


def mean_where_present(values: Iterable[float]) -> float | None:
    """The mean over the episodes that have the number, None if none has."""
    present = [value for value in values if not math.isnan(value)]
    return float(np.mean(present)) if present else None


def _read(info: Mapping[Any, Any], name: str, index: int) -> float:
    value = _find(info, name)
    if value is None:
        return math.nan
    number = _number(value)
    if number is None:
        inside = [f"{name}.{key}" for key in _numeric_names(value)] if isinstance(value, Mapping) else []
        hint = f"; its numbers are {', '.join(inside)}" if inside else ""
        shown = f" of environment {index}: {describe_value(value)}{hint}"
        raise ContractViolation(f": env.log_info: '{name}' in its info is not one number", shown)
    return number if math.isfinite(number) else math.nan


def _find(info: Mapping[Any, Any], name: str) -> Any:
    if name in info:
        return info[name]
    first, dot, rest = name.partition(".")
    inner = info.get(first) if dot else None
    return _find(inner, rest) if isinstance(inner, Mapping) else None


def _number(value: Any) -> float | None:
    try:
        array = np.asarray(value)
    except Exception:  # for example rows of different lengths, or an array of another library
        return None
    return float(array.item()) if array.size == 1 and array.dtype.kind in "biuf" else None


def _numeric_names(info: Mapping[Any, Any]) -> Iterator[str]:
    for key, value in info.items():
        if isinstance(value, Mapping):
            yield from (f"{key}.{name}" for name in _numeric_names(value))
        elif _number(value) is not None:
            yield str(key)
