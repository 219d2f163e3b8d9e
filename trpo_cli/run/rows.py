"""Reads the files that say what a run reached: the rows of `metrics.csv`, and `summary.json`."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trpo_cli.run.layout import METRICS

Floats = NDArray[np.float64]
EMPTY = re.compile(r"(^|,)(?=,|$)", re.MULTILINE)


def read_rows(path: Path) -> dict[str, Floats]:
    """The columns of `metrics.csv` (I,), without a last line that is still being written.

    Raises `ValueError` for what is no table of numbers, or whose steps go back.
    """
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    header, _, body = text[: text.rfind("\n") + 1].partition("\n")
    if not header:
        return {}
    names = next(csv.reader([header]))
    if "env_steps" not in names:
        raise ValueError(f"{METRICS} has no column env_steps")
    if not body:
        return dict.fromkeys(names, np.empty(0))
    cells = io.StringIO(EMPTY.sub(r"\1nan", body.rstrip("\n")))
    try:
        table = np.loadtxt(cells, delimiter=",", comments=None, ndmin=2)
    except ValueError as error:
        raise ValueError(f"{METRICS}: {error}") from error
    if table.shape[1] != len(names):
        raise ValueError(f"{METRICS} has {len(names)} columns and rows of {table.shape[1]}")
    rows = dict(zip(names, table.T, strict=True))
    if not (np.diff(rows["env_steps"], prepend=0) >= 0).all():
        raise ValueError(f"{METRICS}: env_steps do not grow")
    return rows


def read_json(path: Path) -> dict[str, Any]:
    """Read the mapping in a file, empty if there is no file. Raises `ValueError` if it is damaged."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} is no mapping")
    return found
