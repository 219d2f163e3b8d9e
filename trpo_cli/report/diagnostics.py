"""Diagnostics of runs with a trust region, row by row and summarised for each run."""

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
"""Of a diagnostic, the number that a run's rows come to, and what those of several runs come to."""


def bounded(record: RunRecord) -> str | None:
    """The column that delta bounds, by the parts of the run: a KL divergence; None where it bounds none.

    The line search checks its constraint whatever the metric; a step that is only normalised by a metric which is none
    has a length of delta, and one with a multiplier knows no delta.
    """
    metric, step, constraint = (_part(record, name) for name in ("metric", "step", "step.constraint"))
    if step == "fixed" or (step == "normalised" and metric == "identity"):
        return None
    return "policy/max_kl" if constraint == "max_kl" else "policy/kl"


def _part(record: RunRecord, name: str) -> str:
    """The last word of what a part of the algorithm is made by."""
    return str(record.settings.get(f"algo.{name}._target_", "")).rpartition(".")[2]


def kl_ratio(record: RunRecord) -> Floats | None:
    """The KL divergence that delta bounds over delta, update by update (I,); None for a run without either.

    NaN where the radius has decayed to 0.
    """
    delta = record.rows.get("trust_region/delta", record.settings.get("algo.delta"))
    column = bounded(record)
    if column is None or not isinstance(delta, np.ndarray | float | int) or not record.has(column):
        return None
    kl, radius = np.broadcast_arrays(record.rows[column], delta)
    ratio: Floats = np.divide(kl, radius, out=np.full(len(kl), np.nan), where=radius > 0)
    return ratio


def diagnostics(record: RunRecord) -> dict[str, Floats]:
    """The `DIAGNOSTICS` of a run that it has columns for, row by row (I,); empty without a trust region."""
    told = {name: record.rows[column] for name, column in COLUMNS.items() if record.has(column)}
    if told.keys() <= {ACCEPTED}:
        return {}
    ratio = kl_ratio(record)
    return told if ratio is None else {KL: ratio, **told}


def measured(record: RunRecord) -> dict[str, float]:
    """The `MEASURES` of a run, of all its rows where an archive keeps what they came to."""
    if record.whole:
        return record.whole.diagnostics
    told = diagnostics(record)
    values = {name: told[name][~np.isnan(told[name])] for name in told}
    return {
        heading: float(measure(values[name]))
        for heading, (name, measure, _) in MEASURES.items()
        if name in values and len(values[name])
    }
