"""Diagnostics of runs with a trust region, for each row and summarised for each run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from trpo_cli.report.runs import RunRecord
from trpo_cli.statistics import Floats

KL, BACKTRACKS, RESIDUAL, ACCEPTED = "KL / δ", "backtracks of the line search", "CG residual", "share of accepted steps"
COLUMNS = {
    BACKTRACKS: "trust_region/backtracks",
    RESIDUAL: "trust_region/cg_residual",
    ACCEPTED: "trust_region/accepted",
}
DIAGNOSTICS = (KL, *COLUMNS)

Measure = Callable[[Floats], Any]
MEASURES: dict[str, tuple[str, Measure, Measure]] = {
    "median KL / δ": (KL, np.median, np.median),
    "largest KL / δ": (KL, np.max, np.max),
    "share of KL > δ": (KL, lambda ratios: (ratios > 1).mean(), np.mean),
    "mean backtracks": (BACKTRACKS, np.mean, np.mean),
    "median CG residual": (RESIDUAL, np.median, np.median),
    "accepted share": (ACCEPTED, np.mean, np.mean),
}
"""Heading -> the diagnostic, how it is summarised over the rows of a run, and over the runs of a group."""


def find_bounded_column(record: RunRecord) -> str | None:
    """Return the column of the KL divergence that delta bounds, or None if it bounds none.

    The line search checks its constraint with any metric. A step that is normalised by the identity has a length given
    by delta instead, and a step with a fixed multiplier does not use delta.
    """
    metric, step, constraint = (_find_part(record, name) for name in ("metric", "step", "step.constraint"))
    if step == "fixed" or (step == "normalised" and metric == "identity"):
        return None
    return "policy/max_kl" if constraint == "max_kl" else "policy/kl"


def _find_part(record: RunRecord, name: str) -> str:
    """Return the name of the function or class that makes a part of the algorithm."""
    return str(record.settings.get(f"algo.{name}._target_", "")).rpartition(".")[2]


def compute_kl_ratio(record: RunRecord) -> Floats | None:
    """Return the KL divergence that delta bounds, over delta, for each update (I,); None for a run without either.

    It is NaN where the radius has decayed to 0.
    """
    delta = record.rows.get("trust_region/delta", record.settings.get("algo.delta"))
    column = find_bounded_column(record)
    if column is None or not isinstance(delta, np.ndarray | float | int) or not record.has(column):
        return None
    kl, radius = np.broadcast_arrays(record.rows[column], delta)
    ratio: Floats = np.divide(kl, radius, out=np.full(len(kl), np.nan), where=radius > 0)
    return ratio


def compute_diagnostics(record: RunRecord) -> dict[str, Floats]:
    """Return the `DIAGNOSTICS` for which a run has columns, for each row (I,); empty without a trust region."""
    found = {name: record.rows[column] for name, column in COLUMNS.items() if record.has(column)}
    if found.keys() <= {ACCEPTED}:
        return {}
    ratio = compute_kl_ratio(record)
    return found if ratio is None else {KL: ratio, **found}


def summarise(record: RunRecord) -> dict[str, float]:
    """Return the `MEASURES` of a run; for an archived run, those of all its rows if the archive has them."""
    if record.whole:
        return record.whole.diagnostics
    found = compute_diagnostics(record)
    values = {name: found[name][~np.isnan(found[name])] for name in found}
    return {
        heading: float(measure(values[name]))
        for heading, (name, measure, _) in MEASURES.items()
        if name in values and len(values[name])
    }
